"""Other ways to load an encrypted model, timed for restore.py, which starts this in an environment of its own.

    python benchmarks/restore_peers.py FOLDER MODEL

Reads one name a line and answers each with a line of JSON: milliseconds, or the reason why there is none.
"""

import base64
import json
import secrets
import subprocess
import sys
import time
from pathlib import Path

import safetensors.torch
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def touched(tensors):
    """Every page of every tensor, read."""
    for tensor in tensors.values():
        tensor.detach().reshape(-1).view(torch.uint8).numpy()[::4096].sum()
    return tensors


class Cryptotensors:
    def __init__(self, folder, tensors):
        import cryptotensors
        import cryptotensors.torch as library

        def b64(data):
            return base64.b64encode(data).decode()

        sign = Ed25519PrivateKey.generate()
        keys = [
            {"kty": "oct", "alg": "aes256gcm", "kid": "e", "use": "enc", "k": b64(secrets.token_bytes(32))},
            {"kty": "okp", "alg": "ed25519", "kid": "s", "use": "sig", "crv": "Ed25519"}
            | {"d": b64(sign.private_bytes_raw()), "x": b64(sign.public_key().public_bytes_raw())},
        ]
        cryptotensors.register_tmp_key_provider(keys=keys)
        self._library = library
        self._path = folder / "cryptotensors.safetensors"
        library.save_file(tensors, self._path, config={"enc_key": keys[0], "sign_key": keys[1]})

    def __call__(self):
        return self._library.load_file(self._path)


class Tensorizer:
    def __init__(self, folder, tensors):
        from tensorizer import EncryptionParams, TensorSerializer

        self._path = str(folder / "tensorizer.tensors")
        params = EncryptionParams.random()
        self._key = params.key
        writer = TensorSerializer(self._path, encryption=params)
        writer.write_state_dict(tensors)
        writer.close()

    def __call__(self):
        from tensorizer import DecryptionParams, TensorDeserializer

        reader = TensorDeserializer(self._path, device="cpu", encryption=DecryptionParams.from_key(self._key))
        return {name: reader[name] for name in reader}


class WholeFile:
    """One AES-GCM message that holds the file."""

    def __init__(self, folder, model):
        self._key, self._path = AESGCM(secrets.token_bytes(32)), folder / "whole.aesgcm"
        self._path.write_bytes(self._key.encrypt(bytes(12), model.read_bytes(), None))

    def __call__(self):
        return safetensors.torch.load(self._key.decrypt(bytes(12), self._path.read_bytes(), None))


class Pipe:
    """A program that deciphers to its standard output."""

    def __init__(self, encrypt, decrypt):
        subprocess.run(encrypt, check=True, capture_output=True)
        self._decrypt = decrypt

    def __call__(self):
        done = subprocess.run(self._decrypt, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return safetensors.torch.load(done.stdout)


def openssl(folder, model):
    common = ["openssl", "enc", "-aes-256-ctr", "-pbkdf2", "-pass", "pass:benchmark"]
    out = str(folder / "whole.openssl")
    return Pipe([*common, "-in", str(model), "-out", out], [*common, "-d", "-in", out])


def gpg(folder, model):
    out, home = str(folder / "whole.gpg"), folder / "gnupg"
    home.mkdir(mode=0o700)
    common = [
        "gpg",
        "--homedir",
        str(home),
        "--batch",
        "--yes",
        "--passphrase",
        "benchmark",
        "--pinentry-mode",
        "loopback",
    ]
    encrypt = [*common, "--symmetric", "--cipher-algo", "AES256", "--compress-algo", "none", "-o", out, str(model)]
    return Pipe(encrypt, [*common, "--decrypt", out])


def age(folder, model):
    identity, out = folder / "age.key", str(folder / "whole.age")
    subprocess.run(["age-keygen", "-o", str(identity)], check=True, capture_output=True)
    recipient = subprocess.run(["age-keygen", "-y", str(identity)], check=True, capture_output=True, text=True).stdout
    return Pipe(["age", "-r", recipient.strip(), "-o", out, str(model)], ["age", "-d", "-i", str(identity), out])


class Reference:
    """Not a peer: the plain loads that both environments can time."""

    def __init__(self, model):
        self._model = model

    def mapped(self):
        return touched(safetensors.torch.load_file(self._model))

    def cloned(self):
        return {name: tensor.clone() for name, tensor in safetensors.torch.load_file(self._model).items()}


def main():
    folder, model = Path(sys.argv[1]), Path(sys.argv[2])
    tensors = safetensors.torch.load_file(model)
    reference = Reference(model)
    makers = {
        "cryptotensors": lambda: Cryptotensors(folder, tensors),
        "tensorizer": lambda: Tensorizer(folder, tensors),
        "aesgcm": lambda: WholeFile(folder, model),
        "openssl": lambda: openssl(folder, model),
        "gpg": lambda: gpg(folder, model),
        "age": lambda: age(folder, model),
        "load_file, touched": lambda: reference.mapped,
        "load_file, cloned": lambda: reference.cloned,
    }
    ready = {}
    for line in sys.stdin:
        name = line.strip()
        try:
            if name not in ready:
                ready[name] = makers[name]()
                touched(ready[name]())  # once for the page cache
            start = time.perf_counter()
            loaded = ready[name]()
            answer = {"ms": (time.perf_counter() - start) * 1e3}
            del loaded
        except Exception as problem:
            answer = {"missing": f"{type(problem).__name__}: {problem}"[:200]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

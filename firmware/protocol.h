/* The serial protocol of spec/serial-protocol.md, device side. */
#ifndef UNCLONE_PROTOCOL_H
#define UNCLONE_PROTOCOL_H

#include <stdint.h>

#ifndef PROTOCOL_VERSION
#define PROTOCOL_VERSION 1
#endif

#define FIRMWARE_MAJOR 1
#define FIRMWARE_MINOR 0

enum {
    HEADER = 3,       /* version, type, sequence */
    TRAILER = 4,      /* CRC-32, little-endian */
    MAX_PAYLOAD = 192,
    MAX_FRAME = HEADER + MAX_PAYLOAD + TRAILER,
    MAX_DATA = 128    /* bytes of the window in one answer */
};

enum request { IDENTIFY = 0x01, DESCRIBE = 0x02, READ = 0x03, FINISH = 0x04 };
enum { ANSWER = 0x80, REFUSED = 0xFF };
enum refusal { UNKNOWN_REQUEST = 1, BAD_RANGE = 2, WIPED = 3, OTHER_VERSION = 4 };

/* Serve requests for ever. remanence: matching bits of the marker at start-up, 0 to 256. */
void serve(uint32_t remanence) __attribute__((noreturn));

#endif

"""Drop-in loaders: the true weights in the objects that programs use, nothing on disk. One file per library."""

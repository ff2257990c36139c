"""The FUSE front of afmfs: it translates and decides nothing. Only it knows pyfuse3."""

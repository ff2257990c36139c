"""Run as a program of its own: turns into another one, after it has made itself plain.

`python -I -S launch.py PROGRAM ARGUMENT...`. It stands between the mount process and a program that
may lie anywhere: whoever starts a process waits until it has loaded its program, and does so with
the interpreter's lock before Python 3.11.4 (Debian 12 has 3.11.2). Were the program on a home that
hangs, or in this very mount, the mount process would wait for ever. This one lies where the mount
process itself was loaded from.
"""

import os
import resource
import signal
import sys

NOT_EXECUTED = 127


def main() -> None:
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # what is ignored stays so in the next program
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The mount process has room for a million descriptors; programs that close all, or select(),
    # want the usual number.
    usual = 1024 if soft == resource.RLIM_INFINITY else min(soft, 1024)
    resource.setrlimit(resource.RLIMIT_NOFILE, (usual, hard))
    os.environ.pop("LC_CTYPE", None)  # the interpreter's own, set where the locale is C
    try:
        os.execv(sys.argv[1], sys.argv[1:])
    except OSError as error:
        print(f"{sys.argv[1]}: {error.strerror}", file=sys.stderr)
        sys.exit(NOT_EXECUTED)


if __name__ == "__main__":
    main()

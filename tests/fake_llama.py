#!/usr/bin/env -S python3 -IS
"""A small llama-server that misbehaves by environment. Few imports of the standard library: it starts in some 15 ms.

It takes the options its `--help` names, answers as the real one does (tests/contract holds it to that), and prints log
lines in the real form. `tests.builders.fake_binary` makes a program of it. What goes wrong is said by FAKE_* variables:

start and load
  FAKE_LOAD_S=0.5          loading takes this long; FAKE_LOAD_FILE=PATH: until that file exists
  FAKE_LOAD_LINES=0.1      a log line every so many seconds while it loads
  FAKE_LOG=TEXT            printed first, with escapes: `\\xff`, `\\n` (partial lines, invalid UTF-8, anything)
  FAKE_LONG_LINE=N         one line of N bytes
  FAKE_NO_GPU=1            the warning of a build or host without GPU
  FAKE_STARTS=PATH         a line is added to this file at every start: pid, then the arguments
  FAKE_HELP_FILE=PATH      the help (and so the options) of another build
ending
  FAKE_DIE=WHEN            start | load | ready:SECONDS | requests:N | chunks:N (in the middle of a stream)
  FAKE_BAD_STARTS=N        FAKE_DIE holds for the first N starts only (counted in FAKE_STARTS)
  FAKE_EXIT_CODE=N, FAKE_SIGNAL=N   how it ends; default: exit code 1
  FAKE_EXIT_LINES=TEXT     its last words; FAKE_FAIL=NAME: those of a real failure (see FAILURES; implies FAKE_DIE=load)
  FAKE_IGNORE_TERM=1       SIGTERM does nothing; FAKE_TERM_S=2: it takes this long to obey
  FAKE_GRANDCHILD=1        leaves a process that holds its pipes; =setsid: in a session of its own
while it runs
  FAKE_HANG=WHAT           comma-separated: all (no request is answered), health, slots, decode (a request never
                           ends, its slot's counts stand still), swallow (a completion gets no slot and no
                           answer); FAKE_HANG_FILE=PATH: only while that file exists
  FAKE_FLOOD=N             log lines a second, or FAKE_FLOOD_TEXT as often; `empty`: empty ones, without end;
                           FAKE_FLOOD_ONCE=N: that many at once, when ready
  FAKE_EAT=BYTES           SIGUSR1 makes it take that much memory
  FAKE_CLOSE_OUTPUT=1      closes stdout and stderr when ready
  FAKE_CHUNKS=N, FAKE_CHUNK_DELAY=S   tokens of an answer (4), seconds between them (0)
  FAKE_DELAY=S             seconds before the first byte of an answer
  FAKE_BATCHES=N, FAKE_BATCH_S=S   a prompt is read in so many batches of so many seconds, on the processor
  FAKE_STATUS=500          what every completion is answered with ("Compute error."); FAKE_NO_SLOTS=1: /slots is []
  FAKE_KEEPALIVE=N, FAKE_KEEPALIVE_S=S   requests a connection serves (100), seconds it may idle (5)
"""

import sys

sys.path.insert(0, __file__.rpartition("/tests/")[0])

from tests.fakes.llama import main

if __name__ == "__main__":
    main()

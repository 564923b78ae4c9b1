"""`python -m llamad` is the `llamad` command."""

from llamad.cli.main import main

raise SystemExit(main())

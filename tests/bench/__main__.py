"`python tests/bench forward training` and so on, whether the package is installed or not."
import sys
from pathlib import Path

if __name__ == '__main__':
    tests = Path(__file__).resolve().parent.parent
    sys.path[:1] = [str(tests.parent), str(tests)]
    from bench.command import main
    sys.exit(main())

import sys

from bids_qsm.app.cli import main

if __name__ == '__main__':
    sys.exit(main())

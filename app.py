"""Start the page. `python app.py --help` lists the options; a Space starts it as it is."""

import sys

from saif.ui.__main__ import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "app.py"))

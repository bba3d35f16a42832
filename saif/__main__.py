"""`python -m saif`."""

from saif.cli.app import app

if __name__ == "__main__":
    app(prog_name="python -m saif")

"""``python -m fraud.localaws.ministack``: MiniStack behind our guard.

MiniStack lets every web page in: it answers any Host, and with ``Access-Control-Allow-Origin: *``. Its application is
put behind `guard` in its own process, so that there is one port and no way around.
"""

from __future__ import annotations


def main() -> None:
    """Run MiniStack as its own command does, until SIGTERM."""
    from ministack import app as ministack

    from fraud.localaws.guard import guarded

    ministack.app = guarded(ministack.app)  # what its main() serves
    ministack.main()


if __name__ == "__main__":
    main()

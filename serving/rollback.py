"""Makes the release before the current one serve again, after verifying every file of it.

    python -m serving.rollback --serving_root=serving_root

Funnels that watch the serving root follow by themselves. The release that is left stays on disk:
``--to=VERSION`` goes to any that is kept, forward too.
"""

import sys

from absl import flags

from features import command, config_flags
from serving.release import publication, stored_root

_SERVING_ROOT = config_flags.path("serving_root", "itself", "Directory of releases.", required=True)
_REASON = flags.DEFINE_string("reason", "", "Reason, which is written down.")
_TO = flags.DEFINE_string("to", None, "Version; default: the one that served before.")


def main() -> None:
    """Turns flags into arguments and hands over."""
    root = _SERVING_ROOT.value
    with stored_root.changed(root, also=_TO.value) as local:
        old, new = publication.rollback(local, _TO.value, reason=_REASON.value)
    sys.stdout.write(
        f"Release {new} serves now instead of {old}.\n"
        f"Undo: {command.shell_line('serving.rollback', serving_root=root, to=old)}\n"
    )


if __name__ == "__main__":
    command.run(main)

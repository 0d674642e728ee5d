"""
What `action.yml` starts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Started by the directory's path, from any other directory.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from action.step import main  # noqa: E402

sys.exit(main(os.environ))

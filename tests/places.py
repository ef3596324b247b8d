"""Where the tests find what lies in the repository."""

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
DOCS = ROOT / "docs"
CHECKPOINT = ROOT / "checkpoints" / "shapes-cnn-pgd-at.pt"
GOLDEN = TESTS / "golden"

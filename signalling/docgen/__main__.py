"""``python -m signalling.docgen``: write the generated documents, or ``--check`` that they are fresh."""

import sys

from signalling.docgen.generate import main

sys.exit(main())

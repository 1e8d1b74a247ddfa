"""Write the generated documents, or with ``--check`` verify that they are up to date."""

import sys

from signalling.docgen.generate import main

sys.exit(main())

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))  # the shared module closed_form.py, in every import mode of pytest
torch.set_num_threads(1)

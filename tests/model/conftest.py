"""Models so small that a second thread only costs: on busy machines it waits for the first one, spinning."""

import torch

torch.set_num_threads(1)

import torch
import torch.nn.functional as F
from torch import Tensor

from cl.distributed import rank
from cl.losses.precision import full_precision


@full_precision
def moco_v3_loss(q: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Each query identifies the key of its image among those of the global batch: ctr of MoCo v3 (arXiv 2104.02057).

        2 T x mean_B of -log softmax_j(<n(q_i), n(k_j)> / T) at j = i

    The factor 2 T is the paper's (Algorithm 1). Its loss is the sum of both directions, 4 T ln B if all keys are equal.

    Args:
        q: [B, D] predictions of one view by this process, any scale; half types are promoted to float32, float64 stays.
        keys: [W B, D] the teacher's projections of another view by all processes in the order of ranks, any scale; no
            gradient flows into them.
        temperature: T, above 0.

    Returns:
        Scalar: the mean over this process's images. The mean over processes is the loss of the global batch.

    Raises:
        ValueError: if the shapes do not match.
    """
    if q.ndim != 2 or keys.ndim != 2 or q.shape[1] != keys.shape[1]:
        raise ValueError(f"q is {list(q.shape)} and keys is {list(keys.shape)}, expected [B, D] and [W B, D]")
    logits = F.normalize(q, dim=1) @ F.normalize(keys.detach(), dim=1).T / temperature
    own = torch.arange(len(q), device=q.device) + rank() * len(q)
    return 2 * temperature * F.cross_entropy(logits, own)

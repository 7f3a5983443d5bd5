"""Weight maps and the masks that go into them: saturation, bad columns, satellite trails."""

from spica.algorithms.weight.columns import find_bad_columns
from spica.algorithms.weight.maps import make_weight, saturation_mask
from spica.algorithms.weight.trails import Trail, detect_trails

__all__ = ["Trail", "detect_trails", "find_bad_columns", "make_weight", "saturation_mask"]

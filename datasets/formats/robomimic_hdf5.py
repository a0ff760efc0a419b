"""robomimic's HDF5 demonstrations to a store and back.

    /data            attrs: total, env_args (JSON)      [telic (JSON): fields, rate_hz, robot ...]
    /data/demo_<i>   attrs: num_samples                 [segments (JSON), instruction, task]
        actions rewards dones obs/<key> next_obs/<key>  [timestamp_ns]
    /mask/<name>     demo names as bytes: train, valid

What stands in brackets is ours: robomimic passes over it, and with it a store comes back as it
was. `state` is obs/state, `image/<camera>` is obs/<camera>_image, obs/goal (if asked for) is what
lets a low-dim policy without language learn several tasks.
"""

from __future__ import annotations

from telic.datasets.formats.robomimic_hdf5_export import Hdf5ExportOptions, export_hdf5
from telic.datasets.formats.robomimic_hdf5_foreign import Hdf5ImportOptions
from telic.datasets.formats.robomimic_hdf5_import import import_hdf5
from telic.datasets.formats.robomimic_hdf5_layout import HDF5

__all__ = ["HDF5", "Hdf5ExportOptions", "Hdf5ImportOptions", "export_hdf5", "import_hdf5"]

"""The explorer: one picture, a site's maps, runs and folders, as computations and as a web page.

The computations need nothing but the package. `serve` and the page need the extra `explore`.
"""

from deepcorrect.explorer._compare import Answer, Comparison, Curve, Verdict, compare, level_curve
from deepcorrect.explorer._exhibits import Exhibits, Offer
from deepcorrect.explorer._filters import FilterMaps, SiteMaps, site_maps
from deepcorrect.explorer._folder import (
    Difference,
    FolderComparison,
    compare_folder,
    folder_names,
    unused_name,
)
from deepcorrect.explorer._pictures import Picture, read_picture, shipped_pictures
from deepcorrect.explorer._runs import SORTS, RunRow, run_rows, select_rows
from deepcorrect.explorer._serve import LARGEST_UPLOAD, serve
from deepcorrect.explorer._setting import Setting
from deepcorrect.explorer._space import Copied, write_space
from deepcorrect.explorer._state import View, level_range, view_of
from deepcorrect.explorer._subject import BASELINE, CORRECTED, Subject, open_subject

__all__ = [
    "BASELINE",
    "CORRECTED",
    "LARGEST_UPLOAD",
    "SORTS",
    "Answer",
    "Comparison",
    "Copied",
    "Curve",
    "Difference",
    "Exhibits",
    "FilterMaps",
    "FolderComparison",
    "Offer",
    "Picture",
    "RunRow",
    "Setting",
    "SiteMaps",
    "Subject",
    "Verdict",
    "View",
    "compare",
    "compare_folder",
    "folder_names",
    "level_curve",
    "level_range",
    "open_subject",
    "read_picture",
    "run_rows",
    "select_rows",
    "serve",
    "shipped_pictures",
    "site_maps",
    "unused_name",
    "view_of",
    "write_space",
]

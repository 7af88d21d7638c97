"""What pages are made with."""

import subprocess
import sys

from inlay.show.page import label, unbroken


def test_heavy_libraries_are_loaded_only_to_make_a_page() -> None:
    heavy = ("jinja2", "torch", "numpy", "scipy", "rich")
    light = "inlay.show.forgetting, inlay.show.plots, inlay.show.reach, inlay.show.table, inlay.stats"
    code = f"import sys, {light}; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert found == "[]\n"


def test_a_number_keeps_its_sign_a_flag_stays_whole_and_a_label_may_break() -> None:
    assert unbroken("5 % of 7 % ± 2") == "5\u00a0% of 7\u00a0%\u00a0±\u00a02"
    flag = '<span class="whole">{}</span>'.format
    assert unbroken("run --seeds 3, <a> or --data.eval-rows; x--y") == (
        f"run {flag('--seeds 3')}, &lt;a&gt; or {flag('--data.eval-rows')}; x--y"
    )
    assert label("a_b<") == "<bdi>a_<wbr/>b&lt;</bdi>"

"""Warnings name the line of whoever called the package."""

import warnings

import tripletomics as tt
from tripletomics import notices


def caught(call):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return found


def test_a_warning_points_at_the_first_frame_outside_the_package():
    inside = {"__name__": "tripletomics.deep", "warn": notices.warn}
    exec("def outer(): inner()\ndef inner(): warn('careful')", inside)
    (found,) = caught(inside["outer"])
    assert (str(found.message), found.filename) == ("careful", __file__)
    (found,) = caught(lambda: tt.losses.Triplet(p=3.0))  # through the __init__ that a dataclass writes
    assert found.filename == __file__
    (found,) = caught(lambda: notices.warn("from outside"))
    assert found.filename == __file__


def test_a_name_that_only_begins_like_the_package_is_outside():
    other = {"__name__": "tripletomics_lab.notebook", "warn": notices.warn}
    exec(compile("def call(): warn('careful')", "notebook.py", "exec"), other)
    (found,) = caught(other["call"])
    assert found.filename == "notebook.py"

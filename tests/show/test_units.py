import pytest

from inlay.show.units import bytes_text, count_text, counted, percent_text, seconds_text, signed


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (90_868_376, "86.7 MiB"),
        (642_908_160, "613 MiB"),
        (1024**3 - 1, "1.00 GiB"),
        (85_899_345_920, "80.0 GiB"),
        (5 * 1024**5, "5120 TiB"),
    ],
)
def test_bytes_have_three_digits_and_a_binary_unit(count, text):
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (12_345, "12.3 k"), (999_999, "1.00 M"), (1_234_567, "1.23 M")]
    + [(7_615_616_512, "7.62 B")],
)
def test_counts_have_three_digits_and_a_decimal_unit(count, text):
    assert count_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.0032, "3.2 ms"), (0.9999, "1.0 s"), (4.24, "4.2 s"), (59.96, "1 min 0 s"), (83.2, "1 min 23 s")]
    + [(3599.6, "1 h 0 min"), (3725, "1 h 2 min"), (86_399, "1 d 0 h"), (200_000, "2 d 8 h")],
)
def test_seconds_have_their_two_largest_units(seconds, text):
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.0123, "1.2 %"), (0.8722, "87.2 %"), (0.00034, "0.034 %"), (0.009999, "1.0 %")],
)
def test_percentages_keep_two_digits_however_small(share, text):
    assert percent_text(share) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(1, "1 step"), (1.0, "1 step"), (0.25, "0.25 steps"), (0, "0 steps"), (12345678, "12,345,678 steps")],
)
def test_one_has_no_plural(count, text):
    assert counted(count, "step") == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.25, 2, "+0.25"),
        (-0.25, 2, "−0.25"),
        (-0.004, 2, "+0.00"),
        (-0.2, 0, "+0"),
        (-0.0, 1, "+0.0"),
        (-1.6, 0, "−2"),
    ],
)
def test_what_rounds_to_zero_is_not_below_it(value, digits, text):
    assert signed(value, digits) == text

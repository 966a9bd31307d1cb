"""The page on tuning prints what the accountant says; its program is run with all others."""

from keras_dp.accounting import BestOf, epsilon, noise_multiplier
from tests.accounting.selection import law
from tests.hygiene.test_repository import ROOT, python_blocks

PAGE = ROOT / "docs" / "tuning.md"
RUN = {"batch_size": 2048, "dataset_size": 60_000, "updates": 580, "delta": 1e-5}


def test_its_numbers_are_those_that_it_prints(capsys):
    (_, code) = python_blocks(PAGE)[1]
    exec(compile(code, str(PAGE), "exec"), {})
    noise = capsys.readouterr().out.strip()
    alone = noise_multiplier(epsilon=3.0, **RUN)
    assert f"print(noise)  # {noise}; for one run {alone}" in code


def test_its_table_says_what_the_accountant_and_the_distributions_say():
    rows = [line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if "runs |" in line]
    assert len(rows) == 4
    for mean, *cells, together in rows:
        for shape, cell in zip((0.0, 1.0, float("inf")), cells, strict=True):
            noise, _, runs = cell.strip().partition(", ")
            assert suffices(float(noise), best_of=BestOf(float(mean), shape))
            low, high = law(float(mean), shape).cumsum().searchsorted([0.05, 0.95])
            assert runs == f"{low} to {high} runs"
        assert suffices(float(together), updates=580 * int(mean), accountant="rdp")


def suffices(noise, **settings):
    """Whether it is the least noise for epsilon = 3, rounded to two digits."""
    found = [epsilon(noise_multiplier=noise + e, **{**RUN, **settings}) for e in (-0.005, 0.005)]
    return found[1] <= 3 < found[0]

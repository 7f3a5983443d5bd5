"""Detection: laws on known stars, and the real source-extractor on the same image."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from scipy.spatial import cKDTree

from spica.algorithms.background import measure_background
from spica.algorithms.detect import DetectionOverflowError, detect_sources, source_dtype

GAIN, SKY, SATURATION = 1.5, 1000.0, 12_000.0
COLUMNS = (
    "XWIN_IMAGE YWIN_IMAGE X_IMAGE Y_IMAGE ERRX2WIN_IMAGE ERRY2WIN_IMAGE FLUX_AUTO FLUXERR_AUTO KRON_RADIUS "
    "FLUX_APER(2) FLUXERR_APER(2) FLUX_RADIUS FWHM_IMAGE A_IMAGE B_IMAGE THETA_IMAGE FLUX_MAX FLAGS SNR_WIN"
)


@dataclass(frozen=True)
class Field:
    """A simulated field, its truth, our table and the table of source-extractor, row by row the same sources."""

    image: np.ndarray
    truth: np.ndarray  # x, y, flux per matched row; NaN where no star is within a pixel
    ours: np.ndarray
    theirs: np.ndarray
    n_ours: int
    n_theirs: int


def simulate(shape: tuple[int, int], n: int, seed: int, fwhm: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Moffat stars (beta 3) with photon and read noise, and rows x, y, flux."""
    rng = np.random.default_rng(seed)
    stars = np.stack(
        [rng.uniform(0, shape[1] - 1, n), rng.uniform(0, shape[0] - 1, n), 10 ** rng.uniform(2.8, 5.7, n)], 1
    )
    image = np.full(shape, SKY)
    radius2 = fwhm**2 / (4 * (2 ** (1 / 3) - 1))
    for x, y, flux in stars:
        half = 45
        ys, xs = np.ogrid[
            max(0, int(y) - half) : min(shape[0], int(y) + half), max(0, int(x) - half) : min(shape[1], int(x) + half)
        ]
        profile = (1 + ((xs - x) ** 2 + (ys - y) ** 2) / radius2) ** -3.0
        image[ys[0, 0] : ys[-1, 0] + 1, xs[0, 0] : xs[0, -1] + 1] += flux * 2 / (np.pi * radius2) * profile
    image = np.minimum(rng.poisson(image * GAIN) / GAIN + rng.normal(0, 3, shape), SATURATION + 500)
    return image.astype(np.float32), stars


def run_source_extractor(image: np.ndarray, folder: Path) -> np.ndarray:
    """The catalogue of the real tool with the same parameters."""
    fits.writeto(folder / "field.fits", image)
    (folder / "field.param").write_text(COLUMNS.replace(" ", "\n"))
    share = Path("/usr/share/source-extractor")
    settings = {
        "PARAMETERS_NAME": folder / "field.param",
        "FILTER_NAME": share / "default.conv",
        "STARNNW_NAME": share / "default.nnw",
        "CATALOG_NAME": folder / "field.cat",
        "CATALOG_TYPE": "FITS_1.0",
        "GAIN": GAIN,
        "SATUR_LEVEL": SATURATION,
        "PHOT_APERTURES": "5,10",
        "WEIGHT_TYPE": "NONE",
        "VERBOSE_TYPE": "QUIET",
    }
    options = [str(word) for key, value in settings.items() for word in (f"-{key}", value)]
    command = ["source-extractor", str(folder / "field.fits"), "-c", str(share / "default.sex"), *options]
    subprocess.run(command, check=True, cwd=folder)
    return np.asarray(fits.getdata(folder / "field.cat"))


def detect(image: np.ndarray, **options: object) -> np.ndarray:
    background = measure_background(image)
    level = background.level_map()
    return detect_sources(
        image - level,
        background.noise_adu,
        gain_e_per_adu=GAIN,
        saturation_adu=SATURATION,
        background_adu=level,
        apertures_pix=(5.0, 10.0),
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Field:
    image, stars = simulate((1000, 1200), 420, seed=11)
    ours, theirs = detect(image), run_source_extractor(image, tmp_path_factory.mktemp("extractor"))
    distance, row = cKDTree(np.stack([ours["x"], ours["y"]], 1)).query(
        np.stack([theirs["X_IMAGE"] - 1, theirs["Y_IMAGE"] - 1], 1)
    )
    same = distance < 0.5
    matched = ours[row[same]]
    distance, star = cKDTree(stars[:, :2]).query(np.stack([matched["x"], matched["y"]], 1))
    truth = np.where((distance < 1.0)[:, None], stars[star], np.nan)
    return Field(image, truth, matched, theirs[same], ours.size, theirs.size)


def relative(field: Field, ours: str, theirs: str, column: int | None = None) -> np.ndarray:
    """Ours over theirs minus one, for the sources without flags."""
    a, b = field.ours[ours], field.theirs[theirs]
    ratio = (a if column is None else a[:, column]) / (b if column is None else b[:, column]) - 1
    return ratio[field.theirs["FLAGS"] == 0]


def test_the_same_sources_are_found(field: Field) -> None:
    assert field.ours.size > 300
    assert field.ours.size >= 0.97 * field.theirs.size
    assert field.ours.size >= 0.97 * field.n_theirs  # they differ only at the threshold
    assert field.ours.size >= 0.97 * field.n_ours


def test_positions_of_bright_isolated_stars_agree_within_a_hundredth_pixel(field: Field) -> None:
    bright = (field.theirs["FLAGS"] == 0) & (field.theirs["SNR_WIN"] > 50)
    assert bright.sum() > 60
    for ours, theirs in (("x_win", "XWIN_IMAGE"), ("y_win", "YWIN_IMAGE"), ("x", "X_IMAGE"), ("y", "Y_IMAGE")):
        difference = (field.ours[ours] - (field.theirs[theirs] - 1.0))[bright]
        assert np.sqrt(np.mean(difference**2)) < 0.01


@pytest.mark.parametrize(
    ("ours", "theirs", "column", "tolerance"),
    [
        ("flux_auto", "FLUX_AUTO", None, 0.005),
        ("fluxerr_auto", "FLUXERR_AUTO", None, 0.005),
        ("kron_radius", "KRON_RADIUS", None, 0.005),
        ("flux_aper", "FLUX_APER", 0, 0.005),
        ("flux_aper", "FLUX_APER", 1, 0.01),
        ("fluxerr_aper", "FLUXERR_APER", 1, 0.005),
        ("flux_radius", "FLUX_RADIUS", None, 0.01),
        ("a_pix", "A_IMAGE", None, 0.005),
        ("b_pix", "B_IMAGE", None, 0.005),
        ("errx2_win", "ERRX2WIN_IMAGE", None, 0.02),
        ("erry2_win", "ERRY2WIN_IMAGE", None, 0.02),
        ("snr_win", "SNR_WIN", None, 0.005),
        ("flux_max", "FLUX_MAX", None, 0.002),
        ("fwhm_pix", "FWHM_IMAGE", None, 0.05),
    ],
)
def test_measures_agree(field: Field, ours: str, theirs: str, column: int | None, tolerance: float) -> None:
    # the backgrounds differ by some hundredths of the noise, which is what is left between equal algorithms
    difference = relative(field, ours, theirs, column)
    difference = difference[np.isfinite(difference)]
    assert abs(np.median(difference)) < tolerance
    assert np.median(np.abs(difference)) < tolerance


def test_flags_agree(field: Field) -> None:
    for bit in (1, 2, 4, 8):
        assert ((field.ours["flags"] & bit) > 0).sum() > 0
        assert np.mean(((field.ours["flags"] ^ field.theirs["FLAGS"]) & bit) == 0) > 0.99


def test_magnitudes_are_no_worse_than_those_of_source_extractor(field: Field) -> None:
    flux = field.truth[:, 2]
    known = np.isfinite(flux) & (field.ours["flux_auto"] > 0) & (field.theirs["FLUX_AUTO"] > 0)
    for low in np.arange(3.0, 5.5, 0.5):
        chosen = known & (np.log10(flux, where=known, out=np.zeros(flux.size)) >= low) & (flux < 10 ** (low + 0.5))
        assert chosen.sum() > 20
        ours = np.abs(2.5 * np.log10(field.ours["flux_auto"][chosen] / flux[chosen]))
        theirs = np.abs(2.5 * np.log10(field.theirs["FLUX_AUTO"][chosen] / flux[chosen]))
        assert np.median(ours) < 1.03 * np.median(theirs) + 0.001


def test_windowed_errors_are_honest() -> None:
    """The scatter about the truth, in units of the stated error, is one."""
    image, stars = simulate((700, 700), 90, seed=12)
    found = detect(image)
    found = found[(found["flags"] == 0) & (found["snr_win"] > 15)]
    distance, star = cKDTree(stars[:, :2]).query(np.stack([found["x_win"], found["y_win"]], 1))
    pull = ((found["x_win"] - stars[star, 0]) / np.sqrt(found["errx2_win"]))[distance < 1]
    assert pull.size > 40
    # 1/12 of a pixel's variance in the formula makes the errors of SExtractor some per cent too large
    assert 0.65 < 1.4826 * np.median(np.abs(pull)) < 1.25


def test_shift_and_flip_move_the_catalogue() -> None:
    image, _ = simulate((400, 400), 40, seed=13)
    residual = image - np.float32(SKY)
    one = detect_sources(residual, 26.0)
    rolled = detect_sources(np.pad(residual, ((11, 0), (23, 0))), 26.0)
    inner = one[(one["x"] > 40) & (one["y"] > 40) & (one["x"] < 360) & (one["y"] < 360) & (one["flags"] == 0)]
    distance, row = cKDTree(np.stack([rolled["x"] - 23, rolled["y"] - 11], 1)).query(
        np.stack([inner["x"], inner["y"]], 1)
    )
    assert distance.max() < 1e-4
    np.testing.assert_allclose(rolled["flux_auto"][row], inner["flux_auto"], rtol=1e-5)
    mirrored = detect_sources(np.ascontiguousarray(residual[:, ::-1]), 26.0)
    distance, _ = cKDTree(np.stack([399 - mirrored["x"], mirrored["y"]], 1)).query(
        np.stack([inner["x"], inner["y"]], 1)
    )
    assert np.median(distance) < 1e-4


def test_flux_scales_with_the_image() -> None:
    image, _ = simulate((300, 300), 25, seed=14)
    one = detect_sources(image - SKY, 26.0)
    other = detect_sources(4.0 * (image - SKY), 104.0)
    np.testing.assert_allclose(other["flux_auto"], 4.0 * one["flux_auto"], rtol=1e-4)
    np.testing.assert_allclose(other["flux_radius"], one["flux_radius"], rtol=1e-4)
    np.testing.assert_array_equal(other["npix"], one["npix"])


def test_noise_map_and_byte_order_change_nothing() -> None:
    image, _ = simulate((300, 300), 25, seed=15)
    residual = image - np.float32(SKY)
    one = detect_sources(residual, 26.0)
    other = detect_sources(residual.astype(">f4"), np.full(image.shape, 26.0))
    assert one.size == other.size
    np.testing.assert_allclose(one["flux_auto"], other["flux_auto"], rtol=1e-5)
    np.testing.assert_allclose(one["fluxerr_auto"], other["fluxerr_auto"], rtol=1e-5)


def test_a_hole_in_a_star_is_filled_from_its_mirror_image() -> None:
    y, x = np.mgrid[:101, :101]
    star = 5000.0 * np.exp(-((x - 50.3) ** 2 + (y - 49.8) ** 2) / (2 * 2.5**2))
    image = star + np.random.default_rng(16).normal(0, 1.0, star.shape)
    mask = np.zeros(image.shape, dtype=bool)
    mask[48:51, 53:55] = True
    whole = detect_sources(image, 1.0)
    holed = detect_sources(np.where(mask, np.nan, image), 1.0)
    best, other = whole[np.argmax(whole["flux_auto"])], holed[np.argmax(holed["flux_auto"])]
    lost = star[mask].sum() / star.sum()
    assert lost > 0.05
    assert other["flux_auto"] == pytest.approx(best["flux_auto"], rel=0.6 * lost)
    weighted = detect_sources(image, 1.0, weight=(~mask).astype(float))
    assert weighted["flux_auto"].max() == pytest.approx(other["flux_auto"], rel=1e-6)


def test_empty_and_unusable_images_give_an_empty_table() -> None:
    for image, noise in (
        (np.zeros((50, 60)), 1.0),
        (np.full((50, 60), np.nan), 1.0),
        (np.ones((50, 60)), 0.0),
        (np.ones((50, 60)), float("nan")),
    ):
        table = detect_sources(image, noise, apertures_pix=(3.0, 6.0, 9.0))
        assert table.size == 0
        assert table.dtype == source_dtype(3)


def test_the_brightest_are_kept_in_their_order() -> None:
    image, _ = simulate((500, 500), 60, seed=17)
    every = detect_sources(image - SKY, 26.0)
    few = detect_sources(image - SKY, 26.0, max_sources=10)
    assert few.size == 10
    order = np.argsort(-every["flux_auto"])[:5]
    assert set(np.round(every["x"][order], 6)) <= set(np.round(few["x"], 6))
    assert np.all(np.diff(few["number"]) == 1)


def test_overflow_has_a_name_and_advice() -> None:
    with pytest.raises(DetectionOverflowError, match="raise threshold_sigma"):
        detect_sources(np.full((1500, 1500), 100.0, dtype=np.float32), 1.0)


def test_wrong_shapes_and_parameters_are_refused() -> None:
    image = np.zeros((20, 20))
    with pytest.raises(ValueError, match="noise of shape"):
        detect_sources(image, np.ones((3, 3)))
    with pytest.raises(ValueError, match="must be positive"):
        detect_sources(image, 1.0, threshold_sigma=0.0)
    with pytest.raises(ValueError, match="background of shape"):
        detect_sources(image + 5, 1.0, background_adu=np.zeros((3, 3)))


def test_two_threads_do_not_disturb_each_other() -> None:
    images = [simulate((400, 400), 50, seed=20 + k)[0] - np.float32(SKY) for k in range(2)]
    alone = [detect_sources(image, 26.0) for image in images]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda image: detect_sources(image, 26.0), images * 4))
    for k, table in enumerate(together):
        np.testing.assert_array_equal(table["flux_auto"], alone[k % 2]["flux_auto"])


def test_sources_beside_pixels_without_weight_keep_finite_errors() -> None:
    rng = np.random.default_rng(8)
    y, x = np.mgrid[0:96, 0:96]
    data = rng.normal(0.0, 2.0, (96, 96)) + 900.0 * np.exp(-0.5 * ((x - 48.3) ** 2 + (y - 47.6) ** 2) / 4.0)
    noise = np.full((96, 96), 2.0, np.float32)
    noise[:, 51] = 0.0
    sources = detect_sources(data.astype(np.float32), noise, apertures_pix=(10.0,), gain_e_per_adu=2.0)
    assert len(sources) >= 1
    for name in ("fluxerr_auto", "errx2_win", "erry2_win", "errxy_win", "snr_win"):
        assert np.isfinite(sources[name]).all(), name
    assert np.isfinite(sources["fluxerr_aper"]).all()

"""Sky level and noise on a coarse mesh, evaluated for a whole image or for any strip of rows.

The mesh follows Bertin & Arnouts (1996), section 3: in each cell a clipped histogram gives mode and rms, a median
filter over cells removes those lifted by objects, a natural bicubic spline joins the cells. The estimate of a cell is
the one sep.Background makes; it stands here as a kernel because sep keeps its mesh to itself, and strips need the mesh.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from spica.algorithms.robust import bad_mask, native_image

_HISTOGRAM_SIGMAS = 5.0  # half width of a cell's histogram in first-guess rms
_MIN_BINS, _MAX_BINS = 4, 4096
_MIN_GOOD_FRACTION = 0.5  # a cell with fewer usable pixels takes its value from its neighbours


@dataclass(frozen=True, slots=True)
class Background:
    """Sky of one image; maps are made on demand, whole or by strips of rows.

    Attributes
    ----------
    shape : tuple of int
        (ny, nx) of the image.
    mesh_pix : int
        Side of a cell.
    level_adu, noise_adu : float
        Median over cells of level and rms. NaN and NaN where no pixel was usable; noise 0 where the image is constant.
    mesh_level, mesh_noise : ndarray of float64, shape (ceil(ny / mesh_pix), ceil(nx / mesh_pix))
        Filtered values at the cell centres, ((i + 0.5) mesh_pix - 0.5) in pixels, ADU.
    """

    shape: tuple[int, int]
    mesh_pix: int
    level_adu: float
    noise_adu: float
    mesh_level: NDArray[np.float64]
    mesh_noise: NDArray[np.float64]

    def level_map(self, rows: slice | None = None) -> NDArray[np.float32]:
        """Return the level in ADU of the given rows (all by default), shape (n_rows, nx), float32."""
        return self._map(self.mesh_level, rows)

    def noise_map(self, rows: slice | None = None) -> NDArray[np.float32]:
        """Return the rms of the sky in ADU of the given rows, never below half the quietest cell's."""
        return np.maximum(self._map(self.mesh_noise, rows), np.float32(0.5 * self.mesh_noise.min()))

    def _map(self, mesh: NDArray[np.float64], rows: slice | None) -> NDArray[np.float32]:
        start, stop, step = (rows or slice(None)).indices(self.shape[0])
        if step != 1:
            raise ValueError(f"rows must follow each other, got a step of {step}; take every row and thin the map")
        y_pix = np.arange(start, max(start, stop))
        basis_y = _spline_basis(y_pix, mesh.shape[0], self.mesh_pix)
        index, coefficients = _spline_weights(np.arange(self.shape[1]), mesh.shape[1], self.mesh_pix)
        return _evaluate_rows(basis_y, mesh, _second_derivatives(mesh.shape[1]), index, coefficients)


def measure_background(
    data: ArrayLike, mask: NDArray | None = None, mesh_pix: int = 64, filter_meshes: int = 3
) -> Background:
    """Measure level and noise of the sky.

    Parameters
    ----------
    data : array_like, shape (ny, nx)
        Image in ADU, any byte order; NaN and infinities count as masked.
    mask : ndarray, shape (ny, nx), optional
        Non-zero where a pixel is not to be used.
    mesh_pix : int
        Side of a cell; an image smaller than one cell has one cell.
    filter_meshes : int
        Side in cells of the median filter; 1 switches it off.

    Returns
    -------
    Background

    Raises
    ------
    ValueError
        When mesh_pix < 4, filter_meshes < 1, or shapes do not agree.
    """
    if mesh_pix < 4 or filter_meshes < 1:
        raise ValueError(f"mesh_pix={mesh_pix} (at least 4) or filter_meshes={filter_meshes} (at least 1) is too small")
    image = native_image(data)
    level, noise = _measure_cells(image, bad_mask(image, mask), mesh_pix)
    if not np.isfinite(level).any():
        empty = np.full(level.shape, np.nan)
        return Background(image.shape, mesh_pix, float("nan"), float("nan"), empty, empty.copy())
    level, noise = _filter_mesh(_fill_mesh(level), filter_meshes), _filter_mesh(_fill_mesh(noise), filter_meshes)
    return Background(image.shape, mesh_pix, float(np.median(level)), float(np.median(noise)), level, noise)


@njit(cache=True, nogil=True)
def _measure_cells(image, bad, mesh_pix):  # type: ignore[no-untyped-def]
    """Mode and rms of every cell; NaN in cells with too few usable pixels."""
    ny, nx = image.shape
    n_rows, n_columns = (ny - 1) // mesh_pix + 1, (nx - 1) // mesh_pix + 1
    level = np.full((n_rows, n_columns), np.nan)
    noise = np.full((n_rows, n_columns), np.nan)
    values = np.empty(mesh_pix * mesh_pix)
    histogram = np.empty(_MAX_BINS, dtype=np.int64)
    for row in range(n_rows):
        for column in range(n_columns):
            y0, x0 = row * mesh_pix, column * mesh_pix
            y1, x1 = min(ny, y0 + mesh_pix), min(nx, x0 + mesh_pix)
            n = 0
            for y in range(y0, y1):
                for x in range(x0, x1):
                    if not bad[y, x]:
                        values[n] = image[y, x]
                        n += 1
            if n > 0 and n >= _MIN_GOOD_FRACTION * (y1 - y0) * (x1 - x0):
                level[row, column], noise[row, column] = _cell_statistics(values[:n], histogram)
    return level, noise


@njit(cache=True, nogil=True)
def _cell_statistics(values, histogram):  # type: ignore[no-untyped-def]
    """Clip once at 2 rms, then hand the rest to the histogram."""
    mean, sigma = _moments(values, -np.inf, np.inf)
    if sigma <= 1e-7 * abs(mean) or sigma == 0.0:
        return mean, 0.0
    mean, sigma = _moments(values, mean - 2.0 * sigma, mean + 2.0 * sigma)
    if sigma <= 1e-7 * abs(mean) or sigma == 0.0:
        return mean, 0.0
    n_bins = min(_MAX_BINS, int(2.0 * _HISTOGRAM_SIGMAS * np.sqrt(values.size) * 2.0) + _MIN_BINS)
    width = 2.0 * _HISTOGRAM_SIGMAS * sigma / n_bins
    zero = mean - _HISTOGRAM_SIGMAS * sigma
    histogram[:n_bins] = 0
    for value in values:
        k = int(np.floor((value - zero) / width))
        if 0 <= k < n_bins:
            histogram[k] += 1
    mode, rms = _histogram_mode(histogram[:n_bins])
    return zero + mode * width, rms * width


@njit(cache=True, nogil=True)
def _moments(values, low, high):  # type: ignore[no-untyped-def]
    """Mean and rms of the values inside [low, high], in two passes for the sake of large offsets."""
    total, n = 0.0, 0
    for value in values:
        if low <= value <= high:
            total += value
            n += 1
    if n == 0:
        return 0.0, 0.0
    mean, squares = total / n, 0.0
    for value in values:
        if low <= value <= high:
            squares += (value - mean) ** 2
    return mean, np.sqrt(squares / n)


@njit(cache=True, nogil=True)
def _histogram_mode(histogram):  # type: ignore[no-untyped-def]
    """Mode and rms in bins after clipping at 3 rms about the median until the rms is stable."""
    low, high = 0, histogram.size - 1
    last, median, mean, rms = 1e30, 0.0, 0.0, 0.0
    for _ in range(100):
        n, first, second = 0, 0.0, 0.0
        for k in range(low, high + 1):
            n += histogram[k]
            first += histogram[k] * (k + 0.5)
            second += histogram[k] * (k + 0.5) ** 2
        if n == 0:
            break
        mean = first / n
        rms = np.sqrt(max(0.0, second / n - mean * mean))
        below = 0
        for k in range(low, high + 1):
            if 2 * (below + histogram[k]) >= n:
                median = k + (0.5 * n - below) / histogram[k]
                break
            below += histogram[k]
        if rms < 0.1 or abs(rms / last - 1.0) < 1e-4:
            break
        last = rms
        low = max(0, int(median - 3.0 * rms))
        high = min(histogram.size - 1, int(median + 3.0 * rms))
    if rms > 0.0 and abs(mean - median) < 0.3 * rms:
        return 2.5 * median - 1.5 * mean, rms
    return median, rms


def _fill_mesh(mesh: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give every empty cell the mean of the nearest filled ones (all at the least distance)."""
    filled = mesh.copy()
    rows, columns = np.nonzero(np.isfinite(mesh))
    known = mesh[rows, columns]
    for row, column in zip(*np.nonzero(~np.isfinite(mesh)), strict=True):
        distance2 = (rows - row) ** 2 + (columns - column) ** 2
        filled[row, column] = known[distance2 == distance2.min()].mean()
    return filled


def _filter_mesh(mesh: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Median over a square of cells of the given side; near borders the window shrinks but stays symmetric.

    A one-sided window would bias the border cells of a sloping sky by half a cell's slope.
    """
    return np.asarray(_symmetric_median(mesh, side // 2))


@njit(cache=True, nogil=True)
def _symmetric_median(mesh, half):  # type: ignore[no-untyped-def]
    n_rows, n_columns = mesh.shape
    out = np.empty_like(mesh)
    for row in range(n_rows):
        dy = min(half, row, n_rows - 1 - row)
        for column in range(n_columns):
            dx = min(half, column, n_columns - 1 - column)
            out[row, column] = np.median(mesh[row - dy : row + dy + 1, column - dx : column + dx + 1])
    return out


def _second_derivatives(n: int) -> NDArray[np.float64]:
    """Matrix from node values to the second derivatives at the nodes of a natural cubic spline of unit step."""
    if n < 3:
        return np.zeros((n, n))
    bent = np.zeros((n, n))
    inner = np.arange(1, n - 1)
    bent[inner, inner - 1], bent[inner, inner], bent[inner, inner + 1] = 6.0, -12.0, 6.0
    chain = np.eye(n)
    chain[inner, inner - 1], chain[inner, inner], chain[inner, inner + 1] = 1.0, 4.0, 1.0
    return np.asarray(np.linalg.solve(chain, bent))


def _spline_weights(pixels: NDArray, n: int, mesh_pix: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Left node of each pixel, and weights of (left, right, left second derivative, right second derivative)."""
    position = (pixels + 0.5) / mesh_pix - 0.5
    index = np.clip(np.floor(position).astype(np.int64), 0, max(0, n - 2))
    b = position - index if n > 1 else np.zeros(pixels.size)
    a = 1.0 - b
    return index, np.stack([a, b, (a**3 - a) / 6.0, (b**3 - b) / 6.0], axis=1)


def _spline_basis(pixels: NDArray, n: int, mesh_pix: int) -> NDArray[np.float64]:
    """Matrix, shape (n_pixels, n), from node values to the spline at the pixels."""
    index, weight = _spline_weights(pixels, n, mesh_pix)
    eye, second = np.eye(n), _second_derivatives(n)
    right = np.minimum(index + 1, n - 1)
    basis = weight[:, :1] * eye[index] + weight[:, 1:2] * eye[right]
    return np.asarray(basis + weight[:, 2:3] * second[index] + weight[:, 3:] * second[right])


@njit(cache=True, nogil=True)
def _evaluate_rows(basis_y, mesh, second_x, index, weight):  # type: ignore[no-untyped-def]
    """Tensor spline: one spline along y makes the nodes of a row, one along x makes its pixels."""
    n_rows, (n_y, n_x) = basis_y.shape[0], mesh.shape
    out = np.empty((n_rows, index.size), dtype=np.float32)
    node, bend = np.empty(n_x), np.empty(n_x)
    for row in range(n_rows):
        for i in range(n_x):
            total = 0.0
            for j in range(n_y):
                total += basis_y[row, j] * mesh[j, i]
            node[i] = total
        for i in range(n_x):
            total = 0.0
            for j in range(n_x):
                total += second_x[i, j] * node[j]
            bend[i] = total
        for x in range(index.size):
            i = index[x]
            k = min(i + 1, n_x - 1)
            out[row, x] = (
                weight[x, 0] * node[i] + weight[x, 1] * node[k] + weight[x, 2] * bend[i] + weight[x, 3] * bend[k]
            )
    return out

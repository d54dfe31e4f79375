"""The loops of the papers as they are written, in float64 NumPy: slow, plain, and sharing nothing with the solver."""

import numpy as np


def nearest(value, scale, zero, qmin, qmax):
    """The code nearest to a column's values."""
    return np.clip(np.round(value / scale) + zero, qmin, qmax)


def gptq(W, H, lam, scale, zero, group, qmin, qmax, order):
    """Frantar et al., Algorithm 1 without its blocks: the explicit inverse, its upper Cholesky factor, one column after
    the other, the error spread over the columns that remain."""
    W, H = W[:, order].copy(), H[np.ix_(order, order)].copy()
    dead = np.diag(H) == 0
    H[dead, dead] = 1
    inverse = np.linalg.inv(H + lam * np.eye(len(H)))
    upper = np.linalg.cholesky(inverse).T
    codes = np.zeros(W.shape)
    for j in range(W.shape[1]):
        s, z = scale[:, group[order[j]]], zero[:, group[order[j]]]
        codes[:, j] = nearest(W[:, j], s, z, qmin, qmax)
        error = (W[:, j] - s * (codes[:, j] - z)) / upper[j, j]
        W[:, j:] -= np.outer(error, upper[j, j:])
    back = np.zeros_like(codes)
    back[:, order] = codes
    return back


def qronos(W, X, Xq, lam, scale, zero, group, qmin, qmax, order):
    """Zhang et al.: at each step the best code of a column given all others, then least squares for those to come.

    The loss of a row is |X w - Xq v|^2 + lam |w - v|^2, written as one least squares problem by stacked rows.
    """
    W, X, Xq = W[:, order], X[:, order], Xq[:, order]
    out, n = W.shape
    A = np.concatenate([Xq, np.sqrt(lam) * np.eye(n)])
    turn, A = np.linalg.qr(A)  # a rotation: all losses differ by a constant, and the problems are small
    codes = np.zeros((out, n))
    for row in range(out):
        target = turn.T @ np.concatenate([X @ W[row], np.sqrt(lam) * W[row]])
        v = W[row].copy()
        for t in range(n):
            s, z = scale[row, group[order[t]]], zero[row, group[order[t]]]
            rest = target - A @ v + A[:, t] * v[t]
            codes[row, t] = nearest(A[:, t] @ rest / (A[:, t] @ A[:, t]), s, z, qmin, qmax)
            v[t] = s * (codes[row, t] - z)
            if t + 1 < n:
                v[t + 1 :] = np.linalg.lstsq(A[:, t + 1 :], target - A[:, : t + 1] @ v[: t + 1], rcond=None)[
                    0
                ]
    back = np.zeros_like(codes)
    back[:, order] = codes
    return back

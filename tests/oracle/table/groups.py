"""Reasons why names of PyTorch's database have no counterpart, each for a group of them."""

from __future__ import annotations

from adapt import Entry, no

COMPLEX = "complex numbers: deepseek has no complex dtype"
SPARSE = "sparse tensors: deepseek's are dense"
MEMORY = "strides and memory: deepseek's tensors are values and have none"
IN_PLACE = "changes a tensor in place: deepseek's tensors are values"
FACTORS = "a factorisation for the solvers of a numerical library, or a solver on one"
SPECIAL = "a special function that networks do not use"
FOURIER = "Fourier transforms: their results are complex"
INTERNAL = "an internal name of PyTorch's; the public one is in the table"
DEVICE = "a tool for one device of PyTorch's"
SIGNAL = "windows of signal processing: made once, with NumPy as well as with anything"
HISTOGRAM = "a histogram over several dims"
MEDIAN = "the median of what a mask lets through"
LAYER = "a function of twenty arguments: nn.MultiheadAttention is held against PyTorch's instead"

GROUPS: dict[str, str] = {
    COMPLEX: """
        view_as_complex complex polar cdouble cfloat chalf linalg.eig linalg.eigvals angle
    """,
    SPARSE: "sparse.sampled_addmm sparse.mm.reduce to_sparse",
    MEMORY: """
        as_strided as_strided.partial_views as_strided_copy as_strided_scatter resize_
        resize_as_ new_empty_strided empty_strided empty_permuted
    """,
    IN_PLACE: "cauchy geometric log_normal",
    FACTORS: """
        geqrf lu_unpack lu ormqr svd_lowrank pca_lowrank
        linalg.householder_product linalg.ldl_factor linalg.ldl_factor_ex linalg.ldl_solve
        linalg.lu_factor linalg.lu_factor_ex linalg.lu_solve lu_solve linalg.pinv.singular
        linalg.lu
    """,
    SPECIAL: """
        igamma igammac
        special.i0e special.i1e special.zeta special.airy_ai special.bessel_j0
        special.bessel_j1 special.bessel_y0 special.bessel_y1 special.chebyshev_polynomial_t
        special.chebyshev_polynomial_u special.chebyshev_polynomial_v
        special.chebyshev_polynomial_w special.hermite_polynomial_h
        special.hermite_polynomial_he special.laguerre_polynomial_l
        special.legendre_polynomial_p special.modified_bessel_i0 special.modified_bessel_i1
        special.modified_bessel_k0 special.modified_bessel_k1
        special.scaled_modified_bessel_k0 special.scaled_modified_bessel_k1
        special.shifted_chebyshev_polynomial_t special.shifted_chebyshev_polynomial_u
        special.shifted_chebyshev_polynomial_v special.shifted_chebyshev_polynomial_w
        special.spherical_bessel_j0
    """,
    FOURIER: """
        stft fft.fft fft.fft2 fft.fftn fft.hfft fft.hfft2 fft.hfftn fft.rfft fft.rfft2
        fft.rfftn fft.ifft fft.ifft2 fft.ifftn fft.ihfft fft.ihfft2 fft.ihfftn fft.irfft
        fft.irfft2 fft.irfftn
    """,
    INTERNAL: """
        _softmax_backward_data native_batch_norm _native_batch_norm_legit
        _batch_norm_with_update _upsample_bilinear2d_aa max_pool2d_with_indices_backward
        native_dropout_backward _unsafe_masked_index _unsafe_masked_index_put_accumulate
        _chunk_cat _segment_reduce.lengths _segment_reduce.offsets hash_tensor
        torch.ops.aten._safe_softmax.default
    """,
    DEVICE: """
        jiterator_unary jiterator_binary jiterator_4inputs_with_extra_args
        jiterator_binary_return_by_ref jiterator_2inputs_2outputs bmm.triton_optimized
    """,
    SIGNAL: """
        signal.windows.hamming signal.windows.hann signal.windows.bartlett
        signal.windows.blackman signal.windows.cosine signal.windows.exponential
        signal.windows.gaussian signal.windows.kaiser signal.windows.general_cosine
        signal.windows.general_hamming signal.windows.nuttall
    """,
    HISTOGRAM: "histogramdd",
    MEDIAN: "masked.median",
    LAYER: "nn.functional.multi_head_attention_forward",
}

ENTRIES: dict[str, Entry] = {
    name: no(reason) for reason, names in GROUPS.items() for name in names.split()
}

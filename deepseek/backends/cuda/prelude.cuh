// What every emitted kernel may call: element types, arithmetic whose meaning C leaves open, and
// the shuffles of a warp. It needs no headers. Instructions that C++ cannot say stand in one device
// function each, in the last section; a program that runs kernels elsewhere brings its own twins.
#pragma once

typedef signed char int8;
typedef short int16;
typedef long long int64;
typedef unsigned char uint8;
typedef unsigned short uint16;
typedef unsigned int uint32;
typedef unsigned long long uint64;

struct alignas(2) float16 {
  uint16 bits;
};

struct alignas(2) bfloat16 {
  uint16 bits;
};

// Neighbours that are read or written at once.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};

#define INFINITY32 bitcast<float>(0x7f800000u)
#define NAN32 bitcast<float>(0x7fc00000u)
#define INFINITY64 bitcast<double>(0x7ff0000000000000ull)
#define NAN64 bitcast<double>(0x7ff8000000000000ull)

#define DEVICE static __device__ __forceinline__

// Whether packs may be read and written at all of the pointers.
template <class... Pointers>
DEVICE bool are_aligned(Pointers... pointers) {
  return (((uint64)pointers | ...) & 15) == 0;
}

template <class To, class From>
DEVICE To bitcast(From value) {
  static_assert(sizeof(To) == sizeof(From), "another size");
  return __builtin_bit_cast(To, value);
}

// ---------------------------------------------------------------------------- instructions

constexpr unsigned ALL_LANES = 0xffffffffu;

template <int N, class T>
DEVICE Pack<T, N> load_pack(const T* from) {
  return *(const Pack<T, N>*)from;
}

#ifdef __CUDACC__
DEVICE float16 to_float16(float x) {
  float16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
DEVICE float16 to_float16(double x) {
  float16 y;
  asm("cvt.rn.f16.f64 %0, %1;" : "=h"(y.bits) : "d"(x));
  return y;
}
DEVICE bfloat16 to_bfloat16(float x) {
  bfloat16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
DEVICE float to_float(float16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
// The compiler would take a store of 16 bytes apart where branches come before it.
template <class T, int N>
DEVICE void store_pack(T* to, Pack<T, N> pack) {
  if constexpr (sizeof(pack) == 16) {
    const Pack<uint32, 4> words = bitcast<Pack<uint32, 4>>(pack);
    asm volatile(
        "{ .reg .u64 to; cvta.to.global.u64 to, %0; st.global.v4.b32 [to], {%1, %2, %3, %4}; }" ::
            "l"(to),
        "r"(words.at[0]), "r"(words.at[1]), "r"(words.at[2]), "r"(words.at[3])
        : "memory");
  } else {
    *(Pack<T, N>*)to = pack;
  }
}
#else
template <class T, int N>
DEVICE void store_pack(T* to, Pack<T, N> pack) {
  *(Pack<T, N>*)to = pack;
}
DEVICE float16 to_float16(float x) {
  return float16{twin::float16_bits(x)};
}
DEVICE float16 to_float16(double x) {
  return float16{twin::float16_bits(x)};
}
DEVICE bfloat16 to_bfloat16(float x) {
  return bfloat16{twin::bfloat16_bits(x)};
}
DEVICE float to_float(float16 x) {
  return twin::float_of(x.bits);
}
#endif

DEVICE float to_float(bfloat16 x) {
  return bitcast<float>(uint32(x.bits) << 16);
}

// Inexact results are made odd, so that rounding them once more is right.
DEVICE bfloat16 to_bfloat16(double x) {
  const float near = float(x);
  const double back = double(near);
  if (back == x || x != x)
    return to_bfloat16(near);
  const uint32 toward_zero = bitcast<uint32>(near) - uint32(fabs(back) > fabs(x));
  return to_bfloat16(bitcast<float>(toward_zero | 1u));
}

// -------------------------------------------------------------------------------- integers

template <class T>
struct Unsigned {
  typedef T type;
};
template <>
struct Unsigned<int8> {
  typedef uint8 type;
};
template <>
struct Unsigned<int16> {
  typedef uint16 type;
};
template <>
struct Unsigned<int> {
  typedef uint32 type;
};
template <>
struct Unsigned<int64> {
  typedef uint64 type;
};

// Signed numbers wrap round as unsigned ones do.
template <class T>
DEVICE T wrapping_add(T a, T b) {
  typedef typename Unsigned<T>::type U;
  return T(U(a) + U(b));
}
template <class T>
DEVICE T wrapping_sub(T a, T b) {
  typedef typename Unsigned<T>::type U;
  return T(U(a) - U(b));
}
template <class T>
DEVICE T wrapping_mul(T a, T b) {
  typedef typename Unsigned<T>::type U;
  return T(1u * U(a) * U(b));
}
template <class T>
DEVICE T absolute(T a) {
  return a < T(0) ? wrapping_sub(T(0), a) : a;
}

// Quotients are rounded towards minus infinity; dividing by zero gives zero.
template <class T>
DEVICE T floor_div(T a, T b) {
  if (b == T(0))
    return T(0);
  if (T(-1) < T(0) && b == T(-1))
    return wrapping_sub(T(0), a);
  const T quotient = T(a / b);
  return a % b != 0 && (a % b < 0) != (b < 0) ? T(quotient - 1) : quotient;
}
template <class T>
DEVICE T floor_mod(T a, T b) {
  if (b == T(0) || (T(-1) < T(0) && b == T(-1)))
    return T(0);
  const T rest = T(a % b);
  return rest != 0 && (rest < 0) != (b < 0) ? T(rest + b) : rest;
}

// x**y modulo the type's range, for y >= 0.
template <class T>
DEVICE T integer_power(T x, T y) {
  T result = T(1);
  for (; y > T(0); y = T(y >> 1), x = wrapping_mul(x, x)) {
    if (y & 1)
      result = wrapping_mul(result, x);
  }
  return result;
}

// Shifting by all bits or more leaves the sign, or nothing.
template <class T>
DEVICE T shift_left(T a, T b) {
  typedef typename Unsigned<T>::type U;
  return U(b) < U(8 * sizeof(T)) ? T(U(a) << U(b)) : T(0);
}
template <class T>
DEVICE T shift_right(T a, T b) {
  typedef typename Unsigned<T>::type U;
  const U last = 8 * sizeof(T) - 1;
  if (T(-1) < T(0))
    return T(a >> (U(b) < last ? U(b) : last));
  return U(b) <= last ? T(a >> U(b)) : T(0);
}

// ---------------------------------------------------------------------------------- floats

// A NaN on either side is the result.
template <class T>
DEVICE T minimum(T a, T b) {
  return a < b || a != a ? a : b;
}
template <class T>
DEVICE T maximum(T a, T b) {
  return a > b || a != a ? a : b;
}

// The remainder has the sign of the divisor, as in Python.
DEVICE float remainder_of(float a, float b) {
  return fmodf(a, b);
}
DEVICE double remainder_of(double a, double b) {
  return fmod(a, b);
}
DEVICE float with_sign(float a, float b) {
  return copysignf(a, b);
}
DEVICE double with_sign(double a, double b) {
  return copysign(a, b);
}
DEVICE float rounded_down(float a) {
  return floorf(a);
}
DEVICE double rounded_down(double a) {
  return floor(a);
}

template <class T>
DEVICE T float_mod(T a, T b) {
  const T rest = remainder_of(a, b);
  if (rest == T(0))
    return with_sign(T(0), b);
  return (rest < T(0)) != (b < T(0)) ? rest + b : rest;
}
template <class T>
DEVICE T float_floor_div(T a, T b) {
  if (b == T(0))
    return a / b;
  T rest = remainder_of(a, b);
  T quotient = (a - rest) / b;
  if (rest != T(0) && (rest < T(0)) != (b < T(0)))
    quotient -= T(1);
  if (quotient == T(0))
    return with_sign(T(0), a / b);
  const T lower = rounded_down(quotient);
  return quotient - lower > T(0.5) ? lower + T(1) : lower;
}

// --------------------------------------------------------------------------------- a warp

DEVICE uint32 shuffled_down(uint32 x, int distance) {
  return __shfl_down_sync(ALL_LANES, x, distance);
}
DEVICE uint64 shuffled_down(uint64 x, int distance) {
  return __shfl_down_sync(ALL_LANES, x, distance);
}
DEVICE uint32 first_of(uint32 x) {
  return __shfl_sync(ALL_LANES, x, 0);
}
DEVICE uint64 first_of(uint64 x) {
  return __shfl_sync(ALL_LANES, x, 0);
}

// Any type travels through a shuffle in a word of its size, or of 32 bits.
#define TRAVELS(T, WORD, PACKED, UNPACKED)             \
  DEVICE T lane_after(T x, int distance) {             \
    const WORD word = shuffled_down(PACKED, distance); \
    return UNPACKED;                                   \
  }                                                    \
  DEVICE T lane_first(T x) {                           \
    const WORD word = first_of(PACKED);                \
    return UNPACKED;                                   \
  }
TRAVELS(bool, uint32, uint32(x), word != 0)
TRAVELS(int8, uint32, uint32(x), int8(word))
TRAVELS(int16, uint32, uint32(x), int16(word))
TRAVELS(int, uint32, uint32(x), int(word))
TRAVELS(int64, uint64, uint64(x), int64(word))
TRAVELS(uint8, uint32, uint32(x), uint8(word))
TRAVELS(uint16, uint32, uint32(x), uint16(word))
TRAVELS(uint32, uint32, x, word)
TRAVELS(uint64, uint64, x, word)
TRAVELS(float16, uint32, uint32(x.bits), float16{uint16(word)})
TRAVELS(bfloat16, uint32, uint32(x.bits), bfloat16{uint16(word)})
TRAVELS(float, uint32, bitcast<uint32>(x), bitcast<float>(word))
TRAVELS(double, uint64, bitcast<uint64>(x), bitcast<double>(word))

// --------------------------------------------------------------------------------- atomics

DEVICE void atomic_add(float* at, float x) {
  atomicAdd(at, x);
}
DEVICE void atomic_add(double* at, double x) {
  atomicAdd(at, x);
}
DEVICE void atomic_add(int* at, int x) {
  atomicAdd(at, x);
}
DEVICE void atomic_add(uint32* at, uint32 x) {
  atomicAdd(at, x);
}
DEVICE void atomic_add(uint64* at, uint64 x) {
  atomicAdd(at, x);
}
DEVICE void atomic_add(int64* at, int64 x) {
  atomicAdd((uint64*)at, uint64(x));
}

// A smaller number is added inside the aligned word that holds it.
template <class T>
DEVICE void add_in_word(T* at, T x) {
  const uint64 address = (uint64)at;
  uint32* const word = (uint32*)(address & ~uint64(3));
  const int shift = 8 * int(address & 3);
  const uint32 mask = ((1u << (8 * sizeof(T))) - 1u) << shift;
  uint32 seen = *word;
  uint32 old;
  do {
    old = seen;
    const uint32 sum = (old >> shift) + uint32(x);
    seen = atomicCAS(word, old, (old & ~mask) | ((sum << shift) & mask));
  } while (seen != old);
}
DEVICE void atomic_add(int8* at, int8 x) {
  add_in_word(at, x);
}
DEVICE void atomic_add(int16* at, int16 x) {
  add_in_word(at, x);
}
DEVICE void atomic_add(uint8* at, uint8 x) {
  add_in_word(at, x);
}
DEVICE void atomic_add(uint16* at, uint16 x) {
  add_in_word(at, x);
}

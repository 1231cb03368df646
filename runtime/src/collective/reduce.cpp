// Reduction of the ranks' elements in the order of the ranks: one block of accumulators at a time,
// so that 16-bit floats are summed in float32 and rounded once.
#include <algorithm>
#include <bit>
#include <type_traits>

#include "deepseek/collective.h"

namespace deepseek {
namespace {

constexpr int64_t kBlock = 1024;

// What lies in memory as 16 bits and is computed with as a float.
struct Half {
  uint16_t bits;
};
struct Brain {
  uint16_t bits;
};

float widened(Half half) {
  constexpr uint32_t kInfinity = 0x7f800000;
  const uint32_t magnitude = static_cast<uint32_t>(half.bits & 0x7fff) << 13;
  // The exponent's bias differs by 112; multiplying serves subnormal numbers as well.
  uint32_t bits = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  bits = magnitude >= (uint32_t{0x7c00} << 13) ? magnitude | kInfinity : bits;
  return std::bit_cast<float>(bits | static_cast<uint32_t>(half.bits & 0x8000) << 16);
}

float widened(Brain brain) {
  return std::bit_cast<float>(static_cast<uint32_t>(brain.bits) << 16);
}

template <typename T>
T widened(T value) {
  return value;
}

void narrow(float value, Half& out) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7fffffff;
  uint32_t half = 0;
  if (magnitude > 0x7f800000) {
    half = 0x7e00;
  } else if (magnitude >= 0x47800000) {  // 2^16 and more
    half = 0x7c00;
  } else if (magnitude < 0x38800000) {  // subnormal: the addition rounds at the last place
    half = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3f000000;
  } else {  // to nearest, ties to even; what overflows becomes infinity by itself
    half = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  }
  out.bits = static_cast<uint16_t>(half | ((bits >> 16) & 0x8000));
}

void narrow(float value, Brain& out) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
  out.bits = static_cast<uint16_t>((nan ? bits | 0x400000 : rounded) >> 16);
}

template <typename T>
void narrow(T value, T& out) {
  out = value;
}

// Integers wrap around.
template <typename A, typename F>
A wrapping(A a, A b, F compute) {
  if constexpr (std::is_integral_v<A>) {
    using Wide = std::conditional_t<(sizeof(A) < 4), uint32_t, std::make_unsigned_t<A>>;
    return static_cast<A>(compute(static_cast<Wide>(a), static_cast<Wide>(b)));
  } else {
    return compute(a, b);
  }
}

template <typename A>
A combined(Reduction reduction, A a, A b) {
  switch (reduction) {
    case Reduction::kProd:
      return wrapping(a, b, [](auto x, auto y) { return x * y; });
    case Reduction::kMin:  // NaN stays, whichever side it is on
      return b < a || b != b ? b : a;
    case Reduction::kMax:
      return b > a || b != b ? b : a;
    default:
      return wrapping(a, b, [](auto x, auto y) { return x + y; });
  }
}

template <typename T, Reduction reduction>
void reduce_as(std::span<const char* const> sources, char* out, int64_t count) {
  using A = decltype(widened(T{}));
  A block[kBlock];
  auto* results = reinterpret_cast<T*>(out);
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    const auto* first = reinterpret_cast<const T*>(sources[0]) + begin;
    for (int64_t i = 0; i < n; ++i) {
      block[i] = widened(first[i]);
    }
    for (const char* source : sources.subspan(1)) {
      const auto* next = reinterpret_cast<const T*>(source) + begin;
      for (int64_t i = 0; i < n; ++i) {
        block[i] = combined(reduction, block[i], widened(next[i]));
      }
    }
    if constexpr (reduction == Reduction::kAvg) {
      const auto ranks = static_cast<A>(sources.size());
      for (int64_t i = 0; i < n; ++i) {
        block[i] = static_cast<A>(block[i] / ranks);
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      narrow(block[i], results[begin + i]);
    }
  }
}

template <typename T>
void reduce_by(Reduction reduction, std::span<const char* const> sources, char* out,
               int64_t count) {
  switch (reduction) {
    case Reduction::kProd:
      return reduce_as<T, Reduction::kProd>(sources, out, count);
    case Reduction::kMin:
      return reduce_as<T, Reduction::kMin>(sources, out, count);
    case Reduction::kMax:
      return reduce_as<T, Reduction::kMax>(sources, out, count);
    case Reduction::kAvg:
      return reduce_as<T, Reduction::kAvg>(sources, out, count);
    default:
      return reduce_as<T, Reduction::kSum>(sources, out, count);
  }
}

}  // namespace

void reduce_in_order(Element element, Reduction reduction, std::span<const char* const> sources,
                     char* out, int64_t count) {
  switch (element) {
    case Element::kInt8:
      return reduce_by<int8_t>(reduction, sources, out, count);
    case Element::kInt16:
      return reduce_by<int16_t>(reduction, sources, out, count);
    case Element::kInt32:
      return reduce_by<int32_t>(reduction, sources, out, count);
    case Element::kInt64:
      return reduce_by<int64_t>(reduction, sources, out, count);
    case Element::kBool:
    case Element::kUint8:
      return reduce_by<uint8_t>(reduction, sources, out, count);
    case Element::kUint16:
      return reduce_by<uint16_t>(reduction, sources, out, count);
    case Element::kUint32:
      return reduce_by<uint32_t>(reduction, sources, out, count);
    case Element::kUint64:
      return reduce_by<uint64_t>(reduction, sources, out, count);
    case Element::kFloat16:
      return reduce_by<Half>(reduction, sources, out, count);
    case Element::kBfloat16:
      return reduce_by<Brain>(reduction, sources, out, count);
    case Element::kFloat32:
      return reduce_by<float>(reduction, sources, out, count);
    case Element::kFloat64:
      return reduce_by<double>(reduction, sources, out, count);
  }
}

}  // namespace deepseek

#include "deepseek/sort.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "test.h"

namespace deepseek {
namespace {

using Numbers = std::vector<int64_t>;

template <typename T>
struct Sorted {
  std::vector<T> values;
  Numbers indices;
};

template <typename T>
Sorted<T> sort_rows(const std::vector<T>& x, int64_t rows, int64_t dtype, bool descending) {
  const auto count = static_cast<int64_t>(x.size());
  Sorted<T> out{std::vector<T>(x.size()), Numbers(x.size())};
  const Numbers sizes = {rows, count / rows, dtype, descending ? 1 : 0};
  const auto item = static_cast<int64_t>(sizeof(T));
  const Numbers nbytes = {count * item, count * item, count * 8};
  kSort.check(sizes, nbytes);
  const auto stride = static_cast<size_t>(kSort.scratch_bytes(sizes));
  std::vector<std::max_align_t> scratch(4 * stride / sizeof(std::max_align_t) + 1);
  void* const buffers[] = {const_cast<T*>(x.data()), out.values.data(), out.indices.data()};
  kSort.run({buffers, sizes, reinterpret_cast<char*>(scratch.data()), stride, 4});
  return out;
}

constexpr int64_t kInt32 = 3;
constexpr int64_t kFloat32 = 11;

TEST(rows_are_sorted_stably) {
  std::mt19937 random(1);
  for (const int64_t n : {1, 5, 255, 256, 3000}) {
    for (const bool descending : {false, true}) {
      std::vector<int32_t> x(static_cast<size_t>(4 * n));
      for (int32_t& value : x) {
        value = static_cast<int32_t>(random() % 100) - 50;
      }
      const auto out = sort_rows(x, 4, kInt32, descending);
      for (int64_t row = 0; row < 4; ++row) {
        const int32_t* values = x.data() + row * n;
        Numbers expected(static_cast<size_t>(n));
        std::iota(expected.begin(), expected.end(), 0);
        std::stable_sort(expected.begin(), expected.end(), [&](int64_t a, int64_t b) {
          return descending ? values[a] > values[b] : values[a] < values[b];
        });
        CHECK(std::equal(expected.begin(), expected.end(), out.indices.begin() + row * n));
        for (int64_t i = 0; i < n; ++i) {
          const auto at = static_cast<size_t>(row * n + i);
          CHECK_EQUAL(out.values[at], values[out.indices[at]]);
        }
      }
    }
  }
}

TEST(nan_is_the_largest_and_zeros_are_equal) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> x = {0.0F, nan, -0.0F, infinity, -1.0F, -nan, -infinity};
  CHECK((sort_rows(x, 1, kFloat32, false).indices == Numbers{6, 4, 0, 2, 3, 1, 5}));
  CHECK((sort_rows(x, 1, kFloat32, true).indices == Numbers{1, 5, 3, 0, 2, 4, 6}));
}

TEST(bad_calls_are_refused) {
  const Numbers sizes = {2, 10, kFloat32, 0};
  const Numbers small = {80, 80, 159};
  CHECK_THROWS(std::invalid_argument, "too small", kSort.check(sizes, small));
  const Numbers unknown = {2, 10, 13, 0};
  CHECK_THROWS(std::invalid_argument, "code 13", kSort.check(unknown, small));
  const Numbers huge = {int64_t{1} << 40, int64_t{1} << 40, kFloat32, 0};
  CHECK_THROWS(std::invalid_argument, "cannot sort", kSort.check(huge, small));
  CHECK(find_routine("sort") == &kSort);
  CHECK(find_routine("tros") == nullptr);
}

}  // namespace
}  // namespace deepseek

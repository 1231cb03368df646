#include "deepseek/arena.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>

namespace deepseek {
namespace {

struct Item {
  int64_t size;  // aligned
  int64_t first;
  int64_t last;
  size_t index;
};

bool overlap(const Item& a, const Item& b) {
  return a.first <= b.last && b.first <= a.last;
}

std::vector<Item> make_items(std::span<const int64_t> sizes, std::span<const int64_t> first,
                             std::span<const int64_t> last, int64_t alignment) {
  if (sizes.size() != first.size() || sizes.size() != last.size()) {
    throw std::invalid_argument("arena: sizes, first and last must have the same length");
  }
  if (alignment < 1 || (alignment & (alignment - 1)) != 0) {
    throw std::invalid_argument("arena: alignment must be a power of two, got " +
                                std::to_string(alignment));
  }
  std::vector<Item> items;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] < 0 || sizes[i] > (int64_t{1} << 60)) {
      throw std::invalid_argument("arena: block " + std::to_string(i) + " has size " +
                                  std::to_string(sizes[i]));
    }
    if (first[i] > last[i]) {
      throw std::invalid_argument("arena: block " + std::to_string(i) + " ends before it begins");
    }
    if (sizes[i] > 0) {
      items.push_back({(sizes[i] + alignment - 1) & ~(alignment - 1), first[i], last[i], i});
    }
  }
  return items;
}

int64_t lower_bound(const std::vector<Item>& items) {
  std::map<int64_t, int64_t> change;
  for (const Item& item : items) {
    change[item.first] += item.size;
    change[item.last + 1] -= item.size;
  }
  int64_t live = 0;
  int64_t most = 0;
  for (const auto& [step, delta] : change) {
    live += delta;
    most = std::max(most, live);
  }
  return most;
}

// Places items one after the other at the lowest offset, or in the tightest gap, that is free
// during their whole lifetime.
class Placer {
 public:
  explicit Placer(const std::vector<Item>& items) : items_(items), offsets_(items.size()) {}

  int64_t place_all(const std::vector<size_t>& order, bool tightest) {
    by_offset_.clear();
    int64_t total = 0;
    for (const size_t i : order) {
      offsets_[i] = find(items_[i], tightest);
      total = std::max(total, offsets_[i] + items_[i].size);
      const auto at = std::upper_bound(by_offset_.begin(), by_offset_.end(), offsets_[i],
                                       [&](int64_t o, size_t j) { return o < offsets_[j]; });
      by_offset_.insert(at, i);
    }
    return total;
  }

  const std::vector<int64_t>& offsets() const { return offsets_; }

 private:
  int64_t find(const Item& item, bool tightest) const {
    int64_t end = 0;  // of everything before the gap
    int64_t best = -1;
    int64_t best_gap = 0;
    for (const size_t j : by_offset_) {
      if (!overlap(item, items_[j])) {
        continue;
      }
      const int64_t gap = offsets_[j] - end;
      if (gap >= item.size && (best < 0 || gap < best_gap)) {
        best = end;
        best_gap = gap;
        if (!tightest) {
          return best;
        }
      }
      end = std::max(end, offsets_[j] + items_[j].size);
    }
    return best >= 0 ? best : end;
  }

  const std::vector<Item>& items_;
  std::vector<int64_t> offsets_;
  std::vector<size_t> by_offset_;
};

using Before = bool (*)(const Item& a, const Item& b);

// Orders in which placing items works well; none is best for every graph.
constexpr Before kOrders[] = {
    [](const Item& a, const Item& b) { return a.size > b.size; },
    [](const Item& a, const Item& b) {
      return a.size * (a.last - a.first + 1) > b.size * (b.last - b.first + 1);
    },
    [](const Item& a, const Item& b) { return a.last - a.first > b.last - b.first; },
    [](const Item& a, const Item& b) { return a.first < b.first; },
    [](const Item& a, const Item& b) { return a.last > b.last; },
};

// The search for a better order ends when this close to the bound, or after this much work.
constexpr double kGoodEnough = 1.01;
constexpr int64_t kSearchRounds = 1000;
constexpr int64_t kSearchWork = 20'000'000;  // pairs looked at, some 20 ms
constexpr int64_t kPatience = 3;             // rounds without progress before the order is shaken

}  // namespace

int64_t live_lower_bound(std::span<const int64_t> sizes, std::span<const int64_t> first,
                         std::span<const int64_t> last, int64_t alignment) {
  return lower_bound(make_items(sizes, first, last, alignment));
}

Packing pack_arena(std::span<const int64_t> sizes, std::span<const int64_t> first,
                   std::span<const int64_t> last, int64_t alignment) {
  const std::vector<Item> items = make_items(sizes, first, last, alignment);
  const int64_t bound = lower_bound(items);
  Packing best;
  best.offsets.assign(sizes.size(), 0);
  best.total = items.empty() ? 0 : INT64_MAX;
  Placer placer(items);
  std::vector<size_t> best_order;
  bool best_tightest = false;

  const auto attempt = [&](const std::vector<size_t>& order, bool tightest) {
    const int64_t total = placer.place_all(order, tightest);
    if (total < best.total) {
      best.total = total;
      best_order = order;
      best_tightest = tightest;
      for (size_t i = 0; i < items.size(); ++i) {
        best.offsets[items[i].index] = placer.offsets()[i];
      }
    }
    return total;
  };

  std::vector<size_t> order(items.size());
  for (const Before before : kOrders) {
    for (const bool tightest : {false, true}) {
      if (best.total == bound) {
        return best;
      }
      std::iota(order.begin(), order.end(), size_t{0});
      std::stable_sort(order.begin(), order.end(),
                       [&](size_t a, size_t b) { return before(items[a], items[b]); });
      attempt(order, tightest);
    }
  }

  // Whatever reaches the top goes to the front and is placed first; where that leads nowhere, a few
  // items of the best order trade places.
  const int64_t pairs = static_cast<int64_t>(items.size()) * static_cast<int64_t>(items.size());
  const int64_t rounds = std::min(kSearchRounds, kSearchWork / std::max<int64_t>(pairs, 1));
  const auto good = static_cast<int64_t>(kGoodEnough * static_cast<double>(bound));
  std::minstd_rand random;  // the same packing on every run
  order = best_order;
  int64_t stale = 0;
  for (int64_t round = 0; round < rounds && best.total > good; ++round) {
    const int64_t before = best.total;
    const int64_t total = attempt(order, best_tightest);
    stale = best.total < before ? 0 : stale + 1;
    if (stale > kPatience) {
      stale = 0;
      order = best_order;
      for (auto moves = random() % 3 + 1; moves > 0; --moves) {
        std::swap(order[random() % order.size()], order[random() % order.size()]);
      }
      continue;
    }
    const auto top = std::find_if(order.begin(), order.end(), [&](size_t i) {
      return placer.offsets()[i] + items[i].size == total;
    });
    std::rotate(order.begin(), top, top + 1);
  }
  return best;
}

}  // namespace deepseek

#include "deepseek/collective.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <thread>
#include <vector>

#include "test.h"

namespace deepseek {
namespace {

using namespace std::chrono_literals;

std::string new_place() {
  static std::atomic<int> count{0};
  return "/dev/shm/deepseek-test-" + std::to_string(getpid()) + "-" + std::to_string(++count);
}

bool exists(const std::string& path) {
  struct stat status{};
  return stat(path.c_str(), &status) == 0;
}

using Job = std::function<void(Communicator&)>;

// What each rank, a thread here, ended with: empty, or its error's text.
std::vector<std::string> run_ranks(int size, const Job& job,
                                   std::chrono::milliseconds limit = 20s) {
  const std::string place = new_place();
  std::vector<std::string> ends(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        job(*make_shared_memory("g", {place, rank, size, limit}));
      } catch (const std::exception& error) {
        ends[static_cast<size_t>(rank)] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  CHECK(!exists(place));
  return ends;
}

void check_all_well(const std::vector<std::string>& ends) {
  for (const std::string& end : ends) {
    CHECK_EQUAL(end, std::string());
  }
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

constexpr int64_t kSizes[] = {0, 1, 7, 1000, 300'007};

// Element i of rank r, different for each.
int32_t element(int rank, int64_t i) {
  return static_cast<int32_t>(i * 13 + rank * 1'000'003);
}

std::vector<int32_t> elements(int rank, int64_t count) {
  std::vector<int32_t> data(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    data[static_cast<size_t>(i)] = element(rank, i);
  }
  return data;
}

std::vector<int32_t> taken(Communicator& group, Message message,
                           const std::vector<int32_t>& given) {
  message.element = Element::kInt32;
  std::vector<int32_t> out(static_cast<size_t>(message.taken_bytes(group.size()) / 4), -1);
  group.run(message, given.data(), out.data());
  return out;
}

TEST(ranks_sum_and_take_parts) {
  for (const int ranks : {2, 3, 4}) {
    check_all_well(run_ranks(ranks, [&](Communicator& group) {
      for (const int64_t count : kSizes) {
        const int64_t all = count * ranks;
        const auto given = elements(group.rank(), all);
        const auto sum = [&](int64_t i) {
          uint32_t total = 0;
          for (int r = 0; r < ranks; ++r) {
            total += static_cast<uint32_t>(element(r, i));
          }
          return static_cast<int32_t>(total);
        };
        const auto reduced = taken(
            group, {.verb = Verb::kAllReduce, .reduction = Reduction::kSum, .count = all}, given);
        const auto part =
            taken(group, {.verb = Verb::kReduceScatter, .reduction = Reduction::kSum, .count = all},
                  given);
        const auto rooted = taken(
            group,
            {.verb = Verb::kReduce, .reduction = Reduction::kSum, .peer = ranks - 1, .count = all},
            given);
        for (int64_t i = 0; i < all; ++i) {
          CHECK_EQUAL(reduced[static_cast<size_t>(i)], sum(i));
          CHECK_EQUAL(rooted[static_cast<size_t>(i)], group.rank() == ranks - 1 ? sum(i) : 0);
        }
        for (int64_t i = 0; i < count; ++i) {
          CHECK_EQUAL(part[static_cast<size_t>(i)], sum(group.rank() * count + i));
        }
      }
    }));
  }
}

TEST(ranks_move_data) {
  for (const int ranks : {2, 3, 4}) {
    check_all_well(run_ranks(ranks, [&](Communicator& group) {
      for (const int64_t count : kSizes) {
        const int64_t all = count * ranks;
        const auto given = elements(group.rank(), all);
        const auto gathered = taken(group, {.verb = Verb::kAllGather, .count = all}, given);
        const auto swapped = taken(group, {.verb = Verb::kAllToAll, .count = all}, given);
        const auto cast = taken(group, {.verb = Verb::kBroadcast, .peer = 1, .count = all}, given);
        const int next = (group.rank() + 1) % ranks;
        const int before = (group.rank() + ranks - 1) % ranks;
        const auto passed = taken(
            group, {.verb = Verb::kExchange, .peer = next, .source = before, .count = all}, given);
        CHECK(cast == elements(1, all));
        CHECK(passed == elements(before, all));
        for (int r = 0; r < ranks; ++r) {
          for (int64_t i = 0; i < all; ++i) {
            CHECK_EQUAL(gathered[static_cast<size_t>(r * all + i)], element(r, i));
          }
          for (int64_t i = 0; i < count; ++i) {
            CHECK_EQUAL(swapped[static_cast<size_t>(r * count + i)],
                        element(r, group.rank() * count + i));
          }
        }
        group.run({.verb = Verb::kBarrier}, nullptr, nullptr);
      }
    }));
  }
}

TEST(one_sends_and_another_receives) {
  check_all_well(run_ranks(3, [&](Communicator& group) {
    for (const int64_t count : kSizes) {
      if (group.rank() == 0) {
        const auto zero =
            taken(group, {.verb = Verb::kExchange, .peer = 2, .count = count}, elements(0, count));
        CHECK(zero == std::vector<int32_t>(1, 0));
      } else if (group.rank() == 2) {
        CHECK(taken(group, {.verb = Verb::kExchange, .source = 0, .count = count}, {}) ==
              elements(0, count));
      }
    }
    group.run({.verb = Verb::kBarrier}, nullptr, nullptr);
  }));
}

// ---- reductions ----

template <typename T>
std::vector<T> reduced(Element element, Reduction reduction, std::vector<std::vector<T>> ranks) {
  std::vector<const char*> sources;
  for (const auto& rank : ranks) {
    sources.push_back(reinterpret_cast<const char*>(rank.data()));
  }
  std::vector<T> out(ranks[0].size());
  reduce_in_order(element, reduction, sources, reinterpret_cast<char*>(out.data()),
                  static_cast<int64_t>(out.size()));
  return out;
}

TEST(every_number_of_16_bits_survives) {
  for (const Element element : {Element::kFloat16, Element::kBfloat16}) {
    const unsigned infinity = element == Element::kFloat16 ? 0x7c00 : 0x7f80;
    std::vector<uint16_t> all;
    for (unsigned bits = 0; bits < 0x10000; ++bits) {
      if ((bits & 0x7fff) <= infinity) {
        all.push_back(static_cast<uint16_t>(bits));
      }
    }
    CHECK(reduced<uint16_t>(element, Reduction::kMax, {all, all}) == all);
    const auto nan = static_cast<uint16_t>(infinity | 1);
    CHECK((reduced<uint16_t>(element, Reduction::kMin, {{nan}, {0}})[0] & 0x7fff) > infinity);
    CHECK((reduced<uint16_t>(element, Reduction::kMax, {{0}, {nan}})[0] & 0x7fff) > infinity);
  }
}

TEST(halves_round_to_nearest_even) {
  const auto sum = [](uint16_t a, uint16_t b) {
    return reduced<uint16_t>(Element::kFloat16, Reduction::kSum, {{a}, {b}})[0];
  };
  CHECK_EQUAL(sum(0x6800, 0x3c00), 0x6800);  // 2048 + 1 lies half way: down to even
  CHECK_EQUAL(sum(0x6801, 0x3c00), 0x6802);  // 2050 + 1: up to even
  CHECK_EQUAL(sum(0x7bff, 0x4c00), 0x7c00);  // 65504 + 16 overflows
  CHECK_EQUAL(sum(0x7bff, 0x4bff), 0x7bff);  // a little less does not
  CHECK_EQUAL(sum(0x0001, 0x0001), 0x0002);  // subnormal
  CHECK_EQUAL(sum(0x8000, 0x8000), 0x8000);  // -0
}

TEST(sixteen_bit_floats_accumulate_in_float32) {
  // 256 + 1 + ... + 1 is 256 in bfloat16 if each sum is rounded.
  std::vector<std::vector<uint16_t>> ranks(9, {0x3f80});
  ranks[0] = {0x4380};
  CHECK_EQUAL(reduced(Element::kBfloat16, Reduction::kSum, ranks)[0], 0x4384);
}

TEST(integers_wrap_and_floats_average) {
  CHECK_EQUAL(reduced<int8_t>(Element::kInt8, Reduction::kSum, {{100}, {100}})[0], -56);
  CHECK_EQUAL(reduced<int64_t>(Element::kInt64, Reduction::kProd,
                               {{std::numeric_limits<int64_t>::max()}, {2}})[0],
              -2);
  CHECK_EQUAL(reduced<double>(Element::kFloat64, Reduction::kAvg, {{1}, {2}, {6}})[0], 3.0);
}

// ---- what goes wrong ----

TEST(disagreement_names_both) {
  const auto ends = run_ranks(2, [](Communicator& group) {
    const Reduction reduction = group.rank() == 0 ? Reduction::kSum : Reduction::kMax;
    taken(group, {.verb = Verb::kAllReduce, .reduction = reduction, .count = 3}, {1, 2, 3});
  });
  for (const std::string& end : ends) {
    CHECK(contains(end, "all_reduce (sum) of 3 int32") &&
          contains(end, "all_reduce (max) of 3 int32"));
  }
}

TEST(other_collectives_and_counts_disagree) {
  const std::vector<int32_t> data(8);
  const auto ends = run_ranks(3, [&](Communicator& group) {
    const int64_t count = group.rank() == 2 ? 6 : 3;
    taken(group, {.verb = Verb::kAllGather, .count = count}, data);
  });
  CHECK(contains(ends[2], "of 6 int32") && contains(ends[2], "of 3 int32"));
  CHECK(contains(ends[0], "of 6 int32") || contains(ends[0], "gave up"));
}

TEST(a_rank_that_does_not_come_is_named) {
  const auto ends = run_ranks(
      2,
      [](Communicator& group) {
        if (group.rank() == 0) {
          group.run({.verb = Verb::kBarrier}, nullptr, nullptr);
        } else {
          std::this_thread::sleep_for(600ms);
        }
      },
      200ms);
  CHECK(contains(ends[0], "rank 0 waits for rank 1 in barrier, which in 200 ms has not come"));
  CHECK_EQUAL(ends[1], std::string());
}

TEST(a_rank_that_left_is_named_and_the_group_is_useless) {
  const auto ends = run_ranks(2, [](Communicator& group) {
    if (group.rank() == 0) {
      CHECK_THROWS(CollectiveError, "rank 1 in barrier, which has left the group",
                   group.run({.verb = Verb::kBarrier}, nullptr, nullptr));
      group.run({.verb = Verb::kBarrier}, nullptr, nullptr);
    }
  });
  CHECK(contains(ends[0], "of no use any more, since rank 0 waits for rank 1"));
}

TEST(who_fails_tells_the_others) {
  const auto ends = run_ranks(3, [](Communicator& group) {
    if (group.rank() == 0) {
      std::this_thread::sleep_for(300ms);  // by now rank 1 has left, and 2 has seen it
    } else if (group.rank() == 1) {
      return;
    }
    group.run({.verb = Verb::kBarrier}, nullptr, nullptr);
  });
  CHECK(contains(ends[0], "left the group") && contains(ends[2], "left the group"));
}

TEST(a_process_that_dies_is_named) {
  const std::string place = new_place();
  const pid_t child = fork();
  if (child == 0) {
    try {
      const auto group = make_shared_memory("g", {place, 1, 2, 20s});
      group->run({.verb = Verb::kBarrier}, nullptr, nullptr);
      _exit(0);  // without leaving, as a crash does
    } catch (...) {
      _exit(1);
    }
  }
  const auto group = make_shared_memory("g", {place, 0, 2, 20s});
  group->run({.verb = Verb::kBarrier}, nullptr, nullptr);
  CHECK_THROWS(CollectiveError, "rank 1 in barrier, which has died (process ",
               group->run({.verb = Verb::kBarrier}, nullptr, nullptr));
  int status = 0;
  CHECK_EQUAL(waitpid(child, &status, 0), child);
  CHECK_EQUAL(status, 0);
}

TEST(a_forked_process_is_refused) {
  const std::string place = new_place();
  std::thread other([&] {
    const auto group = make_shared_memory("g", {place, 1, 2, 20s});
    group->run({.verb = Verb::kBarrier}, nullptr, nullptr);
  });
  auto group = make_shared_memory("g", {place, 0, 2, 20s});
  const pid_t child = fork();
  if (child == 0) {
    try {
      group->run({.verb = Verb::kBarrier}, nullptr, nullptr);
    } catch (const CollectiveError& error) {
      group.reset();  // is not taken for the parent's leaving
      _exit(contains(error.what(), "forked") ? 0 : 1);
    }
    _exit(2);
  }
  int status = 0;
  CHECK_EQUAL(waitpid(child, &status, 0), child);
  CHECK_EQUAL(status, 0);
  group->run({.verb = Verb::kBarrier}, nullptr, nullptr);  // the parent goes on
  other.join();
}

TEST(messages_that_no_group_can_carry_out) {
  const auto alone = make_alone("a");
  const auto refused = [&](const Message& message, const std::string& part) {
    CHECK_THROWS(std::invalid_argument, part, alone->run(message, nullptr, nullptr));
  };
  refused({.verb = Verb::kBroadcast, .peer = 1}, "a rank below 1");
  refused({.verb = Verb::kExchange}, "a rank below 1");
  refused({.verb = Verb::kExchange, .peer = 0}, "another rank than its own");
  refused({.verb = Verb::kAllReduce}, "a reduction");
  refused({.verb = Verb::kAllReduce, .element = Element::kBool, .reduction = Reduction::kSum},
          "for truth values");
  refused({.verb = Verb::kAllReduce, .element = Element::kInt8, .reduction = Reduction::kAvg},
          "floats for a mean");
  refused({.verb = Verb::kAllGather, .count = -1}, "not negative");
  CHECK_THROWS(std::invalid_argument, "there is no group 'nobody'", find_communicator("nobody"));
}

TEST(meeting_fails_with_reasons) {
  const std::string place = new_place();
  CHECK_THROWS(CollectiveError, "rank 0 waited 50 ms for rank 1, 2 to join it",
               make_shared_memory("g", {place, 0, 3, 50ms}));
  CHECK(!exists(place));
  CHECK_THROWS(CollectiveError, "rank 0, which has made no group at",
               make_shared_memory("g", {place, 1, 2, 50ms}));
  std::thread first([&] {
    CHECK_THROWS(CollectiveError, "to join it", make_shared_memory("g", {place, 0, 3, 400ms}));
  });
  while (!exists(place)) {
    std::this_thread::sleep_for(1ms);
  }
  CHECK_THROWS(CollectiveError, "there are 2 ranks, and rank 0 says 3",
               make_shared_memory("g", {place, 1, 2, 1s}));
  first.join();
}

TEST(what_a_crash_left_is_replaced) {
  const std::string place = new_place();
  const pid_t child = fork();
  if (child == 0) {
    std::thread([&] {
      while (!exists(place)) {
        std::this_thread::sleep_for(1ms);
      }
      _exit(0);  // while rank 0 waits for rank 1
    }).detach();
    try {
      make_shared_memory("g", {place, 0, 2, 20s});
    } catch (...) {
    }
    _exit(1);
  }
  int status = 0;
  CHECK_EQUAL(waitpid(child, &status, 0), child);
  CHECK_EQUAL(status, 0);
  CHECK(exists(place));
  std::thread other([&] {
    const auto group = make_shared_memory("g", {place, 1, 2, 20s});
    group->run({.verb = Verb::kBarrier}, nullptr, nullptr);
  });
  const auto group = make_shared_memory("g", {place, 0, 2, 20s});
  group->run({.verb = Verb::kBarrier}, nullptr, nullptr);
  other.join();
  CHECK(!exists(place));
}

TEST(ctrl_c_ends_a_wait) {
  const auto ends = run_ranks(2, [](Communicator& group) {
    if (group.rank() == 0) {
      const InterruptCheck stop{[](void*) { throw std::runtime_error("stopped"); }, nullptr};
      group.run({.verb = Verb::kBarrier}, nullptr, nullptr, stop);
    } else {
      std::this_thread::sleep_for(200ms);
      group.run({.verb = Verb::kBarrier}, nullptr, nullptr);
    }
  });
  CHECK_EQUAL(ends[0], std::string("stopped"));
}

// ---- NCCL ----

struct Stub {
  void* handle = dlopen(NCCL_STUB, RTLD_NOW);
  template <typename F>
  F* function(const char* name) const {
    return reinterpret_cast<F*>(dlsym(handle, name));
  }
  std::string calls() const { return function<const char*()>("stub_calls")(); }
  void fail(const char* name) const { function<void(const char*)>("stub_fail")(name); }
  int communicators() const { return function<int()>("stub_communicators")(); }
};

NcclOptions with_stub() {
  return {NCCL_STUB, {}, [](void* data, size_t nbytes) { std::memset(data, 0, nbytes); }};
}

TEST(nccl_gets_every_collective) {
  const Stub stub;
  const auto group = make_nccl(make_alone("n"), with_stub());
  CHECK(contains(stub.calls(), "ncclCommInitRank 1 0 "));
  const std::vector<float> given = {1, 2, 3, 4};
  std::vector<float> out(4);
  const auto run = [&](Message message) {
    message.element = Element::kFloat32;
    message.count = 4;
    group->run(message, given.data(), out.data());
    return stub.calls();
  };
  CHECK_EQUAL(run({.verb = Verb::kAllReduce, .reduction = Reduction::kSum}),
              std::string("ncclAllReduce 4 7 0\n"));
  CHECK(out == given);
  CHECK_EQUAL(run({.verb = Verb::kAllReduce, .reduction = Reduction::kAvg}),
              std::string("ncclAllReduce 4 7 4\n"));
  CHECK_EQUAL(run({.verb = Verb::kReduce, .reduction = Reduction::kMax, .peer = 0}),
              std::string("ncclReduce 4 7 2 0\n"));
  CHECK_EQUAL(run({.verb = Verb::kBroadcast, .peer = 0}), std::string("ncclBroadcast 16 1 0\n"));
  CHECK_EQUAL(run({.verb = Verb::kAllGather}), std::string("ncclAllGather 16 1\n"));
  CHECK_EQUAL(run({.verb = Verb::kReduceScatter, .reduction = Reduction::kMin}),
              std::string("ncclReduceScatter 4 7 3\n"));
  CHECK_EQUAL(run({.verb = Verb::kAllToAll}),
              std::string("ncclGroupStart\nncclSend 16 1 0\nncclRecv 16 1 0\nncclGroupEnd\n"));
  CHECK_EQUAL(run({.verb = Verb::kExchange, .peer = 0, .source = 0}),
              std::string("ncclGroupStart\nncclSend 16 1 0\nncclRecv 16 1 0\nncclGroupEnd\n"));
  CHECK_EQUAL(run({.verb = Verb::kBarrier}), std::string());
}

TEST(nccl_ranks_share_an_id) {
  const Stub stub;
  stub.calls();
  const std::string place = new_place();
  const auto join = [&](int rank) {
    make_nccl(make_shared_memory("g", {place, rank, 2, 20s}), with_stub());
  };
  std::thread other(join, 1);
  join(0);
  other.join();
  std::istringstream lines(stub.calls());
  std::string first;
  std::string second;
  std::getline(lines, first);
  std::getline(lines, second);
  CHECK_EQUAL(first.substr(first.rfind(' ')), second.substr(second.rfind(' ')));
  CHECK_EQUAL(stub.communicators(), 0);
}

TEST(nccl_failures_have_names) {
  const Stub stub;
  CHECK_THROWS(CollectiveError, "NCCL cannot be opened",
               make_nccl(make_alone("n"), {"/nowhere/libnccl.so.2", {}, {}}));
  stub.fail("ncclCommInitRank");
  CHECK_THROWS(CollectiveError, "ncclCommInitRank: internal error, as told",
               make_nccl(make_alone("n"), with_stub()));
  const int before = stub.communicators();
  stub.fail("ncclAllReduce");
  const auto group = make_nccl(make_alone("n"), with_stub());
  float data[2] = {};
  CHECK_THROWS(CollectiveError, "NCCL: all_reduce (sum) of 1 float32 in group 'n': internal error",
               group->run({.verb = Verb::kAllReduce,
                           .element = Element::kFloat32,
                           .reduction = Reduction::kSum,
                           .count = 1},
                          data, data + 1));
  CHECK_THROWS(std::invalid_argument, "no integers of 16 bits",
               group->run({.verb = Verb::kAllReduce,
                           .element = Element::kInt16,
                           .reduction = Reduction::kSum,
                           .count = 1},
                          data, data + 1));
  stub.fail("");
  CHECK_EQUAL(stub.communicators(), before + 1);
}

}  // namespace
}  // namespace deepseek

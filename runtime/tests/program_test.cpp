// Builds and runs Programs without Python.
#include "deepseek/program.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <thread>

#include "deepseek/builder.h"
#include "deepseek/executor.h"
#include "deepseek/pool.h"
#include "deepseek/profile.h"
#include "deepseek/thread_pool.h"
#include "test.h"

namespace deepseek {
namespace {

using Numbers = std::vector<int64_t>;

void add(void* const* buffers, const int64_t*, int64_t begin, int64_t end, void*) {
  const auto* a = static_cast<const int64_t*>(buffers[0]);
  const auto* b = static_cast<const int64_t*>(buffers[1]);
  auto* out = static_cast<int64_t*>(buffers[2]);
  for (int64_t i = begin; i < end; ++i) {
    out[i] = a[i] + b[i];
  }
}

// Sums a row of sizes[0] numbers by way of the thread's scratch.
void sum_rows(void* const* buffers, const int64_t* sizes, int64_t begin, int64_t end,
              void* scratch) {
  for (int64_t row = begin; row < end; ++row) {
    std::memcpy(scratch, static_cast<const int64_t*>(buffers[0]) + row * sizes[0],
                static_cast<size_t>(sizes[0]) * 8);
    const auto* numbers = static_cast<const int64_t*>(scratch);
    static_cast<int64_t*>(buffers[1])[row] =
        std::accumulate(numbers, numbers + sizes[0], int64_t{0});
  }
}

void less(void* const* buffers, const int64_t*, int64_t, int64_t, void*) {
  *static_cast<char*>(buffers[2]) =
      *static_cast<const int64_t*>(buffers[0]) < *static_cast<const int64_t*>(buffers[1]);
}

Expr eight_times_symbol() {
  return Expr({{ExprOp::kSymbol, 0}, {ExprOp::kConstant, 8}, {ExprOp::kMul}}, 1);
}

std::shared_ptr<Buffer> buffer(const Numbers& numbers) {
  auto made = Buffer::allocate(numbers.size() * 8, "numbers");
  std::copy(numbers.begin(), numbers.end(), reinterpret_cast<int64_t*>(made->data()));
  return made;
}

Numbers numbers(const Buffer& buffer) {
  const auto* begin = reinterpret_cast<const int64_t*>(buffer.data());
  return {begin, begin + buffer.nbytes() / 8};
}

using Buffers = std::vector<std::shared_ptr<Buffer>>;

Buffers run(const Program& program, const Buffers& inputs, const Numbers& symbols = {},
            const std::vector<char>& donate = {}) {
  return deepseek::run(program, {inputs, symbols, donate, {}});
}

// 4 (x + y), over as many elements as symbol 0 says.
std::shared_ptr<Program> chain(bool may_alias) {
  ProgramBuilder builder(1, "chain");
  const int x = builder.input(eight_times_symbol(), "x");
  const int y = builder.input(eight_times_symbol(), "y");
  const int once = builder.temp(eight_times_symbol());
  const int twice = builder.temp(eight_times_symbol());
  const int out = builder.output(eight_times_symbol(), may_alias ? std::optional(x) : std::nullopt);
  const Expr n = Expr::symbol(0);
  builder.main().launch(add, {{{x, y, once}, {}, n}});
  builder.main().launch(add, {{{once, once, twice}, {}, n}});
  builder.main().launch(add, {{{twice, twice, out}, {}, n}});
  return builder.build();
}

TEST(a_program_runs_without_python) {
  const auto program = chain(false);
  for (const int64_t n : {0, 1, 3, 5000}) {
    Numbers x(static_cast<size_t>(n));
    std::iota(x.begin(), x.end(), 0);
    const Buffers outputs = run(*program, {buffer(x), buffer(x)}, {n});
    for (int64_t& value : x) {
      value *= 8;
    }
    CHECK(numbers(*outputs[0]) == x);
  }
  CHECK_EQUAL(program->counters().launches.load(), uint64_t{12});
  const Numbers symbols = {1000};
  CHECK_EQUAL(program->bind(symbols)->arena_bytes, 2 * 8000);
  CHECK_EQUAL(program->bind(symbols)->lower_bound, 2 * 8000);
}

TEST(donation_takes_the_buffer_over) {
  const auto program = chain(true);
  const auto x = buffer({1, 2});
  const Buffers kept = run(*program, {x, buffer({3, 4})}, {2});
  CHECK(kept[0] != x);
  const Buffers taken = run(*program, {x, buffer({3, 4})}, {2}, {1, 0});
  CHECK(taken[0] == x);
  CHECK((numbers(*x) == Numbers{16, 24}));
}

TEST(a_failed_allocation_leaves_donated_buffers_alone) {
  const auto program = chain(true);
  const auto x = buffer(Numbers(200'000, 1));
  const auto y = buffer(Numbers(200'000, 2));
  Pool::global().set_limit(Pool::global().stats().in_use + 1'600'000);
  CHECK_THROWS(OutOfMemory, "numbers", run(*program, {x, y}, {200'000}, {1, 0}));
  Pool::global().set_limit({});
  CHECK(numbers(*x) == Numbers(200'000, 1));
  CHECK(numbers(*run(*program, {x, y}, {200'000}, {1, 0})[0]) == Numbers(200'000, 12));
}

TEST(rows_and_scratch_over_threads) {
  ThreadPool::global().set_num_threads(4);
  ProgramBuilder builder(0);
  std::vector<Row> rows;
  Buffers inputs;
  Numbers widths = {3, 1, 50, 7};
  for (const int64_t width : widths) {
    const int x = builder.input(100 * width * 8);
    rows.push_back({{x, builder.output(800)}, {width}, 100});
    inputs.push_back(buffer(Numbers(static_cast<size_t>(100 * width), 2)));
  }
  builder.main().launch(sum_rows, rows, 50 * 8);
  const auto program = builder.build();
  for (int round = 0; round < 50; ++round) {
    const Buffers outputs = run(*program, inputs);
    for (size_t i = 0; i < widths.size(); ++i) {
      CHECK(numbers(*outputs[i]) == Numbers(100, 2 * widths[i]));
    }
  }
}

TEST(loops_and_branches) {
  ProgramBuilder builder(1);
  const int xs = builder.input(eight_times_symbol());
  const int limit = builder.input(8);
  const int ys = builder.output(eight_times_symbol());
  const int state = builder.temp(8);
  const int small = builder.temp(1);
  const int index = builder.loop();
  Block& body = builder.block();
  Block& then = builder.block();
  Block& otherwise = builder.block();
  const Ref x_i(xs, 0, index, 8);
  body.launch(less, {{{state, limit, small}, {}, 1}});
  then.launch(add, {{{state, x_i, state}, {}, 1}});
  otherwise.copy(state, x_i, 8);
  body.branch(small, then, otherwise);
  body.copy(Ref(ys, 0, index, 8), state, 8);
  builder.main().copy(state, xs, 8);
  builder.main().loop_for(index, Expr::symbol(0), body);
  const auto program = builder.build();
  const Buffers outputs = run(*program, {buffer({1, 2, 3, 4, 5}), buffer({7})}, {5});
  CHECK((numbers(*outputs[0]) == Numbers{2, 4, 7, 4, 9}));
}

TEST(a_temp_that_a_loop_carries_lives_through_all_of_it) {
  ProgramBuilder builder(0);
  const int x = builder.input(8);
  const int carried = builder.temp(8);
  const int inner = builder.temp(8);
  const int out = builder.output(8);
  Block& body = builder.block();
  body.launch(add, {{{carried, x, inner}, {}, 1}});
  body.copy(carried, inner, 8);
  body.sync();
  builder.main().copy(carried, x, 8);
  builder.main().loop_for(builder.loop(), 5, body);
  builder.main().copy(out, carried, 8);
  const auto program = builder.build();
  const Slot& slot = program->slots()[static_cast<size_t>(carried)];
  CHECK_EQUAL(slot.first, 0);
  CHECK_EQUAL(slot.last, 5);
  CHECK((numbers(*run(*program, {buffer({3})})[0]) == Numbers{18}));
}

TEST(host_functions_run_and_their_errors_come_out) {
  ProgramBuilder builder(0);
  const int x = builder.input(16);
  const int out = builder.output(16, x);
  builder.main().host(
      [](std::span<const HostArgument> arguments, std::span<const int64_t> sizes) {
        CHECK(!arguments[0].writable && arguments[1].writable);
        std::memcpy(arguments[1].data, arguments[0].data, arguments[1].nbytes);
        if (*reinterpret_cast<const int64_t*>(arguments[0].data) == sizes[0]) {
          throw std::runtime_error("thirteen");
        }
      },
      {x, out}, {13});
  const auto program = builder.build();
  const auto good = buffer({1, 2});
  const Buffers outputs = run(*program, {good}, {}, {1});
  CHECK(outputs[0] != good);  // a host step may fail after the first write
  CHECK((numbers(*outputs[0]) == Numbers{1, 2}));
  CHECK_THROWS(std::runtime_error, "thirteen", run(*program, {buffer({13, 0})}));
}

TEST(interrupts_stop_before_the_first_donated_write_only) {
  struct Stop : std::runtime_error {
    using std::runtime_error::runtime_error;
  };
  const InterruptCheck interrupt{[](void*) { throw Stop("stop"); }, nullptr};
  const auto program = chain(true);
  const Buffers inputs = {buffer({1}), buffer({2})};
  const Numbers symbols = {1};
  const std::vector<char> donate = {1, 0};
  CHECK_THROWS(Stop, "stop", deepseek::run(*program, {inputs, symbols, donate, interrupt}));
  CHECK((numbers(*inputs[0]) == Numbers{1}));

  ProgramBuilder builder(0);
  const int x = builder.input(8);
  builder.main().launch(add, {{{x, x, builder.output(8, x)}, {}, 1}});
  const auto at_once = builder.build();
  const Buffers one = {inputs[0]};
  const std::vector<char> yes = {1};
  deepseek::run(*at_once, {one, {}, yes, interrupt});
  CHECK((numbers(*inputs[0]) == Numbers{2}));
}

TEST(one_program_runs_on_several_threads_at_once) {
  ThreadPool::global().set_num_threads(3);
  const auto program = chain(false);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int64_t seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&, seed] {
      for (int64_t round = 0; round < 30; ++round) {
        const int64_t n = 100 + round % 70 * 10;
        const Buffers inputs = {buffer(Numbers(static_cast<size_t>(n), seed)),
                                buffer(Numbers(static_cast<size_t>(n), round))};
        const Buffers outputs = run(*program, inputs, {n});
        wrong += numbers(*outputs[0]) != Numbers(static_cast<size_t>(n), 4 * (seed + round));
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  CHECK_EQUAL(wrong.load(), 0);
}

TEST(steps_are_timed_while_profiling_is_on) {
  take_profile();
  const auto program = chain(false);
  set_profile(true);
  run(*program, {buffer({1}), buffer({2})}, {1});
  set_profile(false);
  const auto records = take_profile();
  CHECK_EQUAL(records.size(), size_t{3});
  for (size_t i = 0; i < records.size(); ++i) {
    CHECK_EQUAL(records[i].step, static_cast<int>(i));
    CHECK_EQUAL(*records[i].program, "chain");
    CHECK(records[i].start_ns <= records[i].end_ns);
  }
}

TEST(bad_programs_are_refused) {
  ProgramBuilder builder(0);
  const int x = builder.input(8);
  CHECK_THROWS(std::invalid_argument, "no slot 5", builder.main().copy(5, x, 8));
  CHECK_THROWS(std::invalid_argument, "no loop 0", builder.main().copy(Ref(x, 0, 0, 8), x, 8));
  const int loop = builder.loop();
  const int out = builder.output(8);
  builder.main().copy(out, Ref(x, 0, loop, 8), 8);
  CHECK_THROWS(std::invalid_argument, "outside of its body", builder.build());
}

}  // namespace
}  // namespace deepseek

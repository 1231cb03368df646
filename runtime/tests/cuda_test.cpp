// Programs of CUDA devices on the stub driver: memory, streams, graphs, and every way to fail.
//
// The stub does work when somebody waits for it, so what is freed or written too early shows as
// wrong results, and under AddressSanitizer as a use after free. Each test has devices of its own.
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <numeric>
#include <thread>

#include "deepseek/builder.h"
#include "deepseek/cuda_executor.h"
#include "test.h"

namespace deepseek {
namespace {

using cuda::Device;
using Numbers = std::vector<int64_t>;

// ---- the stub ----------------------------------------------------------------------------------

class Stub {
 public:
  Stub() {
    setenv("STUB_DEVICES", "64", 1);
    setenv("STUB_MEMORY", "67108864", 1);
    library_ = dlopen(STUB_DRIVER, RTLD_NOW | RTLD_LOCAL);
    CHECK(library_ != nullptr);
    cuda::set_driver_path(STUB_DRIVER);
    fail = find<void(const char*, int, int)>("stub_fail");
    succeed = find<void()>("stub_succeed");
    calls = find<int(const char*)>("stub_calls");
    live = find<long(const char*)>("stub_live");
  }

  void (*fail)(const char* function, int call, int code);
  void (*succeed)();
  int (*calls)(const char* function);
  long (*live)(const char* kind);

 private:
  template <typename F>
  F* find(const char* name) {
    return reinterpret_cast<F*>(dlsym(library_, name));
  }

  void* library_;
};

Stub& stub() {
  static Stub stub;
  return stub;
}

// Lets calls of the driver fail, until the end of the block.
class Failing {
 public:
  Failing(const char* function, int call, int code) { stub().fail(function, call, code); }
  ~Failing() { stub().succeed(); }
};

// A device that no test has used, nor lost.
Device& fresh_device() {
  stub();
  static int next = 0;
  return Device::get(next++);
}

void add(void* const* buffers, const int64_t* sizes, int64_t begin, int64_t end, void*) {
  const auto* a = static_cast<const int64_t*>(buffers[0]);
  const auto* b = static_cast<const int64_t*>(buffers[1]);
  auto* out = static_cast<int64_t*>(buffers[2]);
  for (int64_t i = begin; i < std::min(end, sizes[0]); ++i) {
    out[i] = a[i] + b[i];
  }
}

void less(void* const* buffers, const int64_t*, int64_t, int64_t, void*) {
  *static_cast<char*>(buffers[2]) =
      *static_cast<const int64_t*>(buffers[0]) < *static_cast<const int64_t*>(buffers[1]);
}

cuda::Image& image() {
  static cuda::Image image("stub-cubin 90\nadd " + std::to_string(reinterpret_cast<size_t>(&add)) +
                           " 3 1\nless " + std::to_string(reinterpret_cast<size_t>(&less)) +
                           " 3 0\ntrap 0 1 0\n");
  return image;
}

std::shared_ptr<Buffer> on_host(const Numbers& numbers) {
  auto made = Buffer::allocate(numbers.size() * 8, "numbers");
  std::copy(numbers.begin(), numbers.end(), reinterpret_cast<int64_t*>(made->data()));
  return made;
}

std::shared_ptr<Buffer> on(Device& device, const Numbers& numbers) {
  return cuda::copied(*on_host(numbers), device.index());
}

Numbers numbers(const Buffer& buffer) {
  const auto host = cuda::copied(buffer, kHost);
  const auto* begin = reinterpret_cast<const int64_t*>(host->data());
  return {begin, begin + host->nbytes() / 8};
}

using Buffers = std::vector<std::shared_ptr<Buffer>>;

Buffers run(const Program& program, const Buffers& inputs, const Numbers& symbols = {},
            const std::vector<char>& donate = {}) {
  return deepseek::run(program, {inputs, symbols, donate, {}});
}

Expr eight_times_symbol() {
  return Expr({{ExprOp::kSymbol, 0}, {ExprOp::kConstant, 8}, {ExprOp::kMul}}, 1);
}

// 4 (x + y), over as many elements as symbol 0 says.
std::shared_ptr<Program> chain(Device& device, bool may_alias = false) {
  ProgramBuilder builder(1, "chain", device.index());
  const int x = builder.input(eight_times_symbol(), "x");
  const int y = builder.input(eight_times_symbol(), "y");
  const int once = builder.temp(eight_times_symbol());
  const int twice = builder.temp(eight_times_symbol());
  const int out = builder.output(eight_times_symbol(), may_alias ? std::optional(x) : std::nullopt);
  const Expr n = Expr::symbol(0);
  builder.main().launch(image(), "add", {{{x, y, once}, {n}, n}}, {32, 1});
  builder.main().launch(image(), "add", {{{once, once, twice}, {n}, n}}, {32, 1});
  builder.main().launch(image(), "add", {{{twice, twice, out}, {n}, n}}, {32, 1});
  return builder.build();
}

Numbers counting(int64_t n) {
  Numbers made(static_cast<size_t>(n));
  std::iota(made.begin(), made.end(), 0);
  return made;
}

Numbers times(Numbers numbers, int64_t factor) {
  for (int64_t& number : numbers) {
    number *= factor;
  }
  return numbers;
}

// ---- memory and copies -------------------------------------------------------------------------

TEST(copies_of_all_sizes_go_there_and_back) {
  Device& device = fresh_device();
  Device& other = fresh_device();
  for (const int64_t n : {0, 1, 8191, 8192, 8193, 600'000, 1'600'000}) {
    const Numbers wanted = counting(n);
    const auto there = on(device, wanted);
    CHECK_EQUAL(there->device(), device.index());
    CHECK(numbers(*there) == wanted);
    CHECK(numbers(*cuda::copied(*there, device.index())) == wanted);
    CHECK(numbers(*cuda::copied(*there, other.index())) == wanted);
  }
}

TEST(freed_memory_of_a_stream_is_used_again_at_once) {
  Device& device = fresh_device();
  const void* first = cuda::allocate(device, 1 << 20, "x")->data();
  const auto again = cuda::allocate(device, 1 << 20, "y");
  CHECK(again->data() == first);
  CHECK_EQUAL(device.memory().stats().cache_hits, uint64_t{1});
  const auto stream = device.new_stream();
  device.set_current_stream(stream.get());
  const auto elsewhere = cuda::allocate(device, 1 << 20, "z");
  device.set_current_stream(nullptr);
  CHECK(elsewhere->data() != first);
}

TEST(memory_that_another_stream_uses_waits_for_it) {
  Device& device = fresh_device();
  const auto program = chain(device);
  const auto stream = device.new_stream();
  auto x = on(device, {1, 2, 3});
  const void* place = x->data();
  device.set_current_stream(stream.get());
  const Buffers outputs = run(*program, {x, x}, {3});
  device.set_current_stream(nullptr);
  x.reset();  // its own stream may not have it before the other one has read it
  const auto next = on(device, {7, 7, 7});
  CHECK(next->data() != place);
  CHECK((numbers(*outputs[0]) == Numbers{8, 16, 24}));
  stream->synchronize();
  const auto last = cuda::allocate(device, 24, "later");
  CHECK(last->data() == place);
}

TEST(the_limit_of_a_device_says_who_holds_its_memory) {
  Device& device = fresh_device();
  device.memory().set_limit(size_t{10} << 20);
  {
    const auto freed = cuda::allocate(device, size_t{8} << 20, "freed");
  }
  const auto held = cuda::allocate(device, size_t{4} << 20, "held");
  CHECK_EQUAL(device.memory().stats().cached, size_t{0});
  CHECK_THROWS(OutOfMemory, "held by: held 4.0 MiB",
               cuda::allocate(device, size_t{7} << 20, "more"));
  CHECK_THROWS(OutOfMemory, device.name(), cuda::allocate(device, size_t{7} << 20, "more"));
  CHECK_EQUAL(device.memory().stats().failures, uint64_t{2});
}

TEST(the_driver_running_out_of_memory_empties_the_cache_first) {
  Device& device = fresh_device();
  {
    const auto freed = cuda::allocate(device, size_t{8} << 20, "freed");
  }
  const Failing once("cuMemAlloc_v2", 1, cuda::kOutOfMemory);  // somebody else has taken it
  const auto held = cuda::allocate(device, size_t{48} << 20, "held");
  CHECK_EQUAL(device.memory().stats().retries, uint64_t{1});
  CHECK_EQUAL(device.memory().stats().cached, size_t{0});
  const Failing always("cuMemAlloc_v2", 0, cuda::kOutOfMemory);
  CHECK_THROWS(OutOfMemory, "the driver has 16.0 MiB left",
               cuda::allocate(device, size_t{4} << 20, "more"));
}

// ---- programs ----------------------------------------------------------------------------------

TEST(programs_run_and_are_captured_when_they_come_again) {
  Device& device = fresh_device();
  const auto program = chain(device);
  for (int round = 0; round < 5; ++round) {
    for (const int64_t n : {1, 3, 5000}) {
      const Numbers x = times(counting(n), round);
      const Buffers outputs = run(*program, {on(device, x), on_host(x)}, {n});
      CHECK_EQUAL(outputs[0]->device(), device.index());
      CHECK(numbers(*outputs[0]) == times(x, 8));
    }
  }
  CHECK_EQUAL(program->counters().captures.load(), uint64_t{3});
  CHECK_EQUAL(program->counters().replays.load(), uint64_t{12});
  CHECK_EQUAL(program->counters().launches.load(), uint64_t{45});
}

TEST(graphs_follow_their_arguments) {
  Device& device = fresh_device();
  const auto program = chain(device);
  Buffers kept;  // so that each call has other addresses
  for (int64_t round = 0; round < 8; ++round) {
    const Numbers x = {round, 2 * round};
    kept.push_back(on(device, x));
    kept.push_back(run(*program, {kept.back(), kept.back()}, {2})[0]);
  }
  for (int64_t round = 0; round < 8; ++round) {
    CHECK((numbers(*kept[2 * static_cast<size_t>(round) + 1]) == Numbers{8 * round, 16 * round}));
  }
  CHECK_EQUAL(program->counters().captures.load(), uint64_t{1});
}

TEST(graphs_can_be_switched_off) {
  Device& device = fresh_device();
  const auto program = chain(device);
  cuda::settings().graphs = false;
  for (int round = 0; round < 3; ++round) {
    CHECK((numbers(*run(*program, {on(device, {1}), on(device, {2})}, {1})[0]) == Numbers{12}));
  }
  cuda::settings().graphs = true;
  CHECK_EQUAL(program->counters().captures.load(), uint64_t{0});
}

TEST(donation_takes_over_memory_of_its_own_stream) {
  Device& device = fresh_device();
  const auto program = chain(device, true);
  const auto x = on(device, {1, 2});
  const auto y = on(device, {3, 4});
  CHECK(run(*program, {x, y}, {2}, {1, 0})[0] == x);
  const auto stream = device.new_stream();
  device.set_current_stream(stream.get());
  const Buffers elsewhere = run(*program, {x, y}, {2}, {1, 0});
  device.set_current_stream(nullptr);
  CHECK(elsewhere[0] != x);
  CHECK((numbers(*elsewhere[0]) == Numbers{4 * 19, 4 * 28}));
  const auto host = on_host({1, 1});
  CHECK(run(*program, {host, y}, {2}, {1, 0})[0] != host);
}

TEST(control_copies_and_host_steps_work_on_devices) {
  Device& device = fresh_device();
  // Doubles x while it is below a limit, adds a constant on the host, then three times y.
  ProgramBuilder builder(0, "control", device.index());
  const int x = builder.input(8, "x");
  const int limit = builder.input(8, "limit");
  const int ten = builder.constant(on_host({10}), "ten");
  const int state = builder.temp(8);
  const int next = builder.temp(8);
  const int again = builder.temp(1);
  const int sum = builder.temp(8);
  const int out = builder.output(16);
  Block& condition = builder.block();
  condition.launch(image(), "less", {{{state, limit, again}, {}, 1}}, {1, 1});
  Block& body = builder.block();
  body.launch(image(), "add", {{{state, state, next}, {1}, 1}}, {1, 1});
  body.copy(state, next, 8);
  builder.main().copy(state, x, 8);
  builder.main().loop_while(condition, again, body);
  builder.main().host(
      [](std::span<const HostArgument> arguments, std::span<const int64_t>) {
        *reinterpret_cast<int64_t*>(arguments[1].data) =
            *reinterpret_cast<const int64_t*>(arguments[0].data) + 1;
        CHECK(arguments[1].writable && arguments[0].writable);
      },
      {state, sum}, {});
  const int loop = builder.loop();
  Block& rounds = builder.block();
  rounds.launch(image(), "add", {{{sum, ten, Ref(out, Expr(0), loop, Expr(8))}, {1}, 1}}, {1, 1});
  builder.main().loop_for(loop, 2, rounds);
  builder.main().sync();
  const auto program = builder.build();
  for (int round = 0; round < 3; ++round) {
    CHECK((numbers(*run(*program, {on(device, {3}), on(device, {100})})[0]) == Numbers{203, 203}));
  }
  CHECK_EQUAL(program->counters().captures.load(), uint64_t{0});  // what it does depends on values
}

TEST(loops_and_copies_of_known_length_are_captured) {
  Device& device = fresh_device();
  ProgramBuilder builder(0, "rows", device.index());
  const int x = builder.input(32, "x");
  const int out = builder.output(32);
  const int loop = builder.loop();
  Block& body = builder.block();
  const Ref row(x, Expr(0), loop, Expr(8));
  body.launch(image(), "add", {{{row, row, Ref(out, Expr(0), loop, Expr(8))}, {1}, 1}}, {1, 1});
  builder.main().loop_for(loop, 3, body);
  builder.main().copy(Ref(out, Expr(24)), Ref(x, Expr(24)), 8);
  const auto program = builder.build();
  Buffers kept;
  for (int64_t round = 0; round < 4; ++round) {
    kept.push_back(on(device, {1, 2, 3, round}));
    kept.push_back(run(*program, {kept.back()})[0]);
    CHECK((numbers(*kept.back()) == Numbers{2, 4, 6, round}));
  }
  CHECK_EQUAL(program->counters().captures.load(), uint64_t{3});  // copies cannot be changed
}

TEST(threads_share_a_device) {
  Device& device = fresh_device();
  const auto program = chain(device);
  std::vector<std::thread> threads;
  for (int64_t seed = 1; seed < 4; ++seed) {
    threads.emplace_back([&, seed] {
      const auto stream = device.new_stream();
      device.set_current_stream(seed == 1 ? nullptr : stream.get());
      for (int64_t i = 0; i < 30; ++i) {
        const int64_t n = i % 3 + 1;
        const auto x = on(device, times(counting(n), seed));
        CHECK(numbers(*run(*program, {x, x}, {n})[0]) == times(counting(n), 8 * seed));
      }
      device.set_current_stream(nullptr);
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
}

TEST(programs_want_what_they_can_reach) {
  Device& device = fresh_device();
  Device& other = fresh_device();
  const auto program = chain(device);
  CHECK_THROWS(std::invalid_argument, "lies on " + other.name(),
               run(*program, {on(other, {1}), on(device, {1})}, {1}));
  ProgramBuilder builder(0, "wrong", device.index());
  const int x = builder.input(8);
  CHECK_THROWS(std::invalid_argument, "of the processor",
               builder.main().launch(add, {{{x, x, x}, {}, 1}}));
  CHECK_THROWS(std::invalid_argument, "wanted 1 to 1024",
               builder.main().launch(image(), "add", {{{x, x, x}, {1}, 1}}, {64, 32}));
  CHECK_THROWS(cuda::Error, "'sub'",
               builder.main().launch(image(), "sub", {{{x, x, x}, {1}, 1}}, {1, 1}));
  cuda::Image text("not a cubin");
  CHECK_THROWS(cuda::Error, "another architecture",
               builder.main().launch(text, "add", {{{x, x, x}, {1}, 1}}, {1, 1}));
  cuda::Image old("stub-cubin 80");
  CHECK_THROWS(cuda::Error, "NO_BINARY_FOR_GPU",
               builder.main().launch(old, "add", {{{x, x, x}, {1}, 1}}, {1, 1}));
  CHECK_THROWS(cuda::Error, "there are cuda:0 to cuda:63", Device::get(64));
  CHECK_THROWS(cuda::Error, "there is no device cuda:-1", Device::get(-1));
}

// ---- streams and events ------------------------------------------------------------------------

TEST(streams_are_used_again) {
  Device& device = fresh_device();
  const cuda::Stream* first = device.new_stream().get();
  const auto second = device.new_stream();
  CHECK(second.get() == first);
  CHECK(device.new_stream(-1).get() != first);
  CHECK(device.new_stream().get() != first);
}

TEST(events_order_and_measure) {
  Device& device = fresh_device();
  const auto stream = device.new_stream();
  cuda::Event start(device, true);
  cuda::Event end(device, true);
  cuda::Event plain(device, false);
  CHECK_THROWS(cuda::Error, "enable_timing=True", start.milliseconds_until(end));
  start.record(device.default_stream());
  const auto x = on(device, {1, 2});
  end.record(device.default_stream());
  CHECK(!end.done());
  CHECK(!device.default_stream().done());
  CHECK_THROWS(cuda::Error, "not happened yet", start.milliseconds_until(end));
  stream->wait(device.default_stream());
  stream->synchronize();
  CHECK(end.done());
  CHECK_EQUAL(start.milliseconds_until(end), 1.0F);
  CHECK_THROWS(cuda::Error, "enable_timing=True", start.milliseconds_until(plain));
}

// ---- failures ----------------------------------------------------------------------------------

// Everything a program goes through, from loading its code to the result.
void scenario(Device& device) {
  cuda::Image own(image().bytes());
  const Numbers x = counting(9000);
  ProgramBuilder builder(0, "scenario", device.index());
  const int a = builder.input(72'000);
  const int c = builder.constant(on_host(x));
  const int t = builder.temp(72'000);
  const int out = builder.output(72'000);
  builder.main().launch(own, "add", {{{a, c, t}, {9000}, 9000}}, {32, 1}, 64 << 10);
  builder.main().launch(own, "add", {{{t, t, out}, {9000}, 9000}}, {32, 1});
  const auto program = builder.build();
  const auto stream = device.new_stream();
  for (int round = 0; round < 4; ++round) {
    device.set_current_stream(round % 2 == 0 ? nullptr : stream.get());
    const auto input = on(device, x);
    const Buffers outputs = run(*program, {input}, {});
    CHECK(numbers(*outputs[0]) == times(x, 4));
    device.synchronize();
  }
  device.set_current_stream(nullptr);
  device.memory().empty_cache();
  device.pinned().empty_cache();
}

const char* const kFunctions[] = {
#define DEEPSEEK_TEST_NAME(member, name, parameters) name,
    DEEPSEEK_CUDA_DRIVER(DEEPSEEK_TEST_NAME)
#undef DEEPSEEK_TEST_NAME
};

std::map<std::string, int> calls_now() {
  std::map<std::string, int> calls;
  for (const char* name : kFunctions) {
    calls[name] = stub().calls(name);
  }
  return calls;
}

// What is left when the cache was emptied: nothing that grows.
std::map<std::string, long> left() {
  std::map<std::string, long> found;
  for (const char* kind : {"memory", "pinned", "events", "modules", "graphs", "execs"}) {
    found[kind] = stub().live(kind);
  }
  return found;
}

TEST(every_call_of_the_driver_may_fail) {
  Device& device = fresh_device();
  scenario(device);
  const auto before = calls_now();
  const auto kept = left();
  scenario(device);
  const auto after = calls_now();
  CHECK(left() == kept);
  int failed = 0;
  for (const char* name : kFunctions) {
    const int calls = after.at(name) - before.at(name);
    for (int call = 1; call <= calls; call += std::max(1, calls / 12)) {
      try {
        const Failing once(name, call, cuda::kInvalidValue);
        scenario(device);
      } catch (const cuda::Error& error) {
        ++failed;
        CHECK(std::string(error.what()).find("INVALID_VALUE") != std::string::npos);
      }
      device.set_current_stream(nullptr);
      device.synchronize();
      scenario(device);  // all is as before
    }
  }
  CHECK(failed > 40);
}

TEST(an_illegal_access_loses_the_device_and_says_what_ran) {
  Device& device = fresh_device();
  ProgramBuilder builder(0, "broken", device.index());
  const int x = builder.input(8);
  const int out = builder.output(8);
  builder.main().launch(image(), "trap", {{{x}, {}, 1}}, {1, 1}, 0, {}, "the kernel", "train.py:7");
  builder.main().copy(out, x, 8);
  const auto program = builder.build();
  const auto held = on(device, {1});
  run(*program, {held});  // nobody has waited for it yet
  CHECK_THROWS(cuda::Error, "launched last: broken", device.synchronize());
  CHECK_THROWS(cuda::Error, "is lost to this process", device.synchronize());
  CHECK_THROWS(cuda::Error, "ILLEGAL_ADDRESS", on(device, {1}));
  CHECK_THROWS(cuda::Error, "start a new process", run(*program, {held}));
}

TEST(waiting_for_each_step_names_the_one_that_fails) {
  Device& device = fresh_device();
  ProgramBuilder builder(0, "broken", device.index());
  const int x = builder.input(8);
  const int out = builder.output(8);
  builder.main().copy(out, x, 8);
  builder.main().launch(image(), "trap", {{{x}, {}, 1}}, {1, 1}, 0, {}, "the kernel", "train.py:7");
  const auto program = builder.build();
  const auto held = on(device, {1});
  cuda::settings().synchronous = true;
  CHECK_THROWS(cuda::Error, "'the kernel', step 1 of broken, recorded at train.py:7",
               run(*program, {held}));
  cuda::settings().synchronous = false;
}

TEST(a_device_may_be_lost_anywhere) {
  Device& first = fresh_device();
  scenario(first);
  const auto before = calls_now();
  scenario(first);
  const auto after = calls_now();
  for (const char* name : kFunctions) {
    if (after.at(name) == before.at(name) || std::string(name) == "cuGetErrorName" ||
        std::string(name) == "cuGetErrorString" || std::string(name) == "cuCtxSetCurrent") {
      continue;
    }
    Device& device = fresh_device();
    try {
      const Failing first_call(name, 1, cuda::kIllegalAddress);
      scenario(device);
    } catch (const cuda::Error& error) {
      CHECK_EQUAL(error.code(), cuda::Result{cuda::kIllegalAddress});
    }
    device.set_current_stream(nullptr);
    CHECK_THROWS(cuda::Error, "ILLEGAL_ADDRESS", device.synchronize());
    CHECK(device.lost());
  }
}

}  // namespace
}  // namespace deepseek

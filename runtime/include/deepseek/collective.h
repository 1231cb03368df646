// Collectives: what the processes of a group do together, each with memory of its own.
//
// A Communicator is this process's place in a group, found by the group's name; a Program's
// Collective steps name the group. Results depend on the ranks' data alone, never on timing: what
// is reduced is reduced in the order of the ranks, 16-bit floats in float32.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "deepseek/interrupt.h"

namespace deepseek {

enum class Verb : uint8_t {
  kAllReduce,
  kReduce,     // the root gets the result, others zeros
  kBroadcast,  // everybody gets what the root gives
  kAllGather,
  kReduceScatter,
  kAllToAll,
  kExchange,  // give to one rank, take from another; where there is no other, take one zero
  kBarrier,
};
constexpr std::array<std::string_view, 8> kVerbs = {"all_reduce", "reduce",         "broadcast",
                                                    "all_gather", "reduce_scatter", "all_to_all",
                                                    "exchange",   "barrier"};

enum class Element : uint8_t {
  kBool,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kUint8,
  kUint16,
  kUint32,
  kUint64,
  kFloat16,
  kBfloat16,
  kFloat32,
  kFloat64,
};
constexpr std::array<std::string_view, 13> kElements = {
    "bool",   "int8",   "int16",   "int32",    "int64",   "uint8",  "uint16",
    "uint32", "uint64", "float16", "bfloat16", "float32", "float64"};

int64_t size_of(Element element);

enum class Reduction : uint8_t { kNone, kSum, kProd, kMin, kMax, kAvg };
constexpr std::array<std::string_view, 6> kReductions = {"none", "sum", "prod",
                                                         "min",  "max", "avg"};

// What a rank asks for. All ranks of a group must ask for the same, except the two of an exchange.
struct Message {
  Verb verb;
  Element element = Element::kUint8;
  Reduction reduction = Reduction::kNone;
  int peer = -1;      // reduce, broadcast: the root; exchange: to whom, -1 for nobody
  int source = -1;    // exchange: from whom, -1 for nobody
  int64_t count = 0;  // elements given; of an exchange, those of what goes over

  int64_t given_bytes() const { return count * size_of(element); }
  int64_t taken_bytes(int ranks) const;
};

// As errors show it: `all_reduce (sum) of 12 float32`.
std::string describe(const Message& message);

// Ranks that disagree, that are gone or too late, and transports that fail.
class CollectiveError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Communicator {
 public:
  Communicator(std::string name, int rank, int size);
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  const std::string& name() const { return name_; }
  int rank() const { return rank_; }
  int size() const { return size_; }
  virtual std::string_view transport() const = 0;

  // Blocks until this rank has its result. `given` and `taken` must not overlap. Throws
  // std::invalid_argument for a message that no group can carry out, and CollectiveError.
  void run(const Message& message, const void* given, void* taken,
           const InterruptCheck& interrupt = {});

 protected:
  virtual void carry_out(const Message& message, const char* given, char* taken,
                         const InterruptCheck& interrupt) = 0;
  bool forked() const;

 private:
  void check(const Message& message) const;

  std::string name_;
  int rank_;
  int size_;
  uint64_t forks_;
  std::mutex mutex_;  // one message at a time
};

// The world of one rank, which is always there under this name.
constexpr std::string_view kAlone = "alone";
std::shared_ptr<Communicator> make_alone(std::string name);

// Over shared memory. The ranks meet at `place`, a path that rank 0 makes and removes.
struct Meeting {
  std::string place;
  int rank;
  int size;
  std::chrono::milliseconds timeout;  // for meeting, and for each wait afterwards
};
std::shared_ptr<Communicator> make_shared_memory(std::string name, const Meeting& meeting,
                                                 const InterruptCheck& interrupt = {});

// Over NCCL, found by dlopen at `library`. `meet` is a group of the same ranks on the host, which
// hands the unique id around and serves barriers. `stream` gives what calls are queued on; `clear`
// zeroes device memory on it.
struct NcclOptions {
  std::string library = "libnccl.so.2";
  std::function<void*()> stream;
  std::function<void(void*, size_t)> clear;
};
std::shared_ptr<Communicator> make_nccl(std::shared_ptr<Communicator> meet, NcclOptions options);

// By name. Adding throws std::invalid_argument where the name is taken; finding, where there is
// none of that name.
void add_communicator(std::shared_ptr<Communicator> communicator);
std::shared_ptr<Communicator> find_communicator(std::string_view name);
void remove_communicator(std::string_view name);

// out[i] = sources[0][i], sources[1][i], ... reduced in that order.
void reduce_in_order(Element element, Reduction reduction, std::span<const char* const> sources,
                     char* out, int64_t count);

}  // namespace deepseek

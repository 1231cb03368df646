// NCCL, opened when a group asks for it: one package serves machines with and without it. What is
// declared here is its C interface, version 2.10 and later.
#include <dlfcn.h>

#include <cstring>

#include "deepseek/collective.h"

namespace deepseek {
namespace {

extern "C" {
using ncclComm_t = void*;
struct ncclUniqueId {
  char internal[128];
};
}

constexpr int kSuccess = 0;
constexpr int kUint8 = 1;
constexpr int kUnknown = -1;

// By Element: integers of 16 bits are no numbers to NCCL, which can only move them.
constexpr std::array<int, kElements.size()> kDataTypes = {1, 0, kUnknown, 2, 4, 1, kUnknown,
                                                          3, 5, 6,        9, 7, 8};
// By Reduction.
constexpr std::array<int, kReductions.size()> kOperators = {kUnknown, 0, 1, 3, 2, 4};

// The library's functions; each is looked up once.
class Library {
 public:
  explicit Library(const std::string& path) : handle_(dlopen(path.c_str(), RTLD_NOW)) {
    if (handle_ == nullptr) {
      throw CollectiveError(std::string("NCCL cannot be opened: ") + dlerror() +
                            "\n  help: pip install nvidia-nccl-cu13, or set DS_NCCL to the path of "
                            "libnccl.so.2");
    }
    load(get_unique_id, "ncclGetUniqueId");
    load(init_rank, "ncclCommInitRank");
    load(destroy, "ncclCommDestroy");
    load(error_string, "ncclGetErrorString");
    load(group_start, "ncclGroupStart");
    load(group_end, "ncclGroupEnd");
    load(all_reduce, "ncclAllReduce");
    load(reduce, "ncclReduce");
    load(broadcast, "ncclBroadcast");
    load(all_gather, "ncclAllGather");
    load(reduce_scatter, "ncclReduceScatter");
    load(send, "ncclSend");
    load(recv, "ncclRecv");
  }

  void require(int result, const std::string& what) const {
    if (result != kSuccess) {
      throw CollectiveError("NCCL: " + what + ": " + error_string(result));
    }
  }

  int (*get_unique_id)(ncclUniqueId*) = nullptr;
  int (*init_rank)(ncclComm_t*, int, ncclUniqueId, int) = nullptr;
  int (*destroy)(ncclComm_t) = nullptr;
  const char* (*error_string)(int) = nullptr;
  int (*group_start)() = nullptr;
  int (*group_end)() = nullptr;
  int (*all_reduce)(const void*, void*, size_t, int, int, ncclComm_t, void*) = nullptr;
  int (*reduce)(const void*, void*, size_t, int, int, int, ncclComm_t, void*) = nullptr;
  int (*broadcast)(const void*, void*, size_t, int, int, ncclComm_t, void*) = nullptr;
  int (*all_gather)(const void*, void*, size_t, int, ncclComm_t, void*) = nullptr;
  int (*reduce_scatter)(const void*, void*, size_t, int, int, ncclComm_t, void*) = nullptr;
  int (*send)(const void*, size_t, int, int, ncclComm_t, void*) = nullptr;
  int (*recv)(void*, size_t, int, int, ncclComm_t, void*) = nullptr;

 private:
  template <typename F>
  void load(F& function, const char* name) {
    function = reinterpret_cast<F>(dlsym(handle_, name));
    if (function == nullptr) {
      throw CollectiveError(std::string("NCCL is too old or no NCCL: it has no ") + name);
    }
  }

  void* handle_;  // never closed: its threads may outlive any group
};

class Nccl : public Communicator {
 public:
  Nccl(std::shared_ptr<Communicator> meet, NcclOptions options)
      : Communicator(meet->name(), meet->rank(), meet->size()),
        meet_(std::move(meet)),
        options_(std::move(options)),
        library_(options_.library) {
    ncclUniqueId given{};
    ncclUniqueId id{};
    if (rank() == 0) {
      library_.require(library_.get_unique_id(&given), "ncclGetUniqueId");
    }
    meet_->run({.verb = Verb::kBroadcast, .peer = 0, .count = sizeof id}, &given, &id);
    library_.require(library_.init_rank(&comm_, size(), id, rank()), "ncclCommInitRank");
  }

  ~Nccl() override {
    if (!forked()) {
      library_.destroy(comm_);
    }
  }

  std::string_view transport() const override { return "nccl"; }

 private:
  void carry_out(const Message& message, const char* given, char* taken,
                 const InterruptCheck& interrupt) override {
    const auto count = static_cast<size_t>(message.count);
    const auto nbytes = static_cast<size_t>(message.given_bytes());
    const int type = kDataTypes[static_cast<size_t>(message.element)];
    const int op = kOperators[static_cast<size_t>(message.reduction)];
    if (message.reduction != Reduction::kNone && type == kUnknown) {
      throw std::invalid_argument(describe(message) + ": NCCL reduces no integers of 16 bits");
    }
    if (message.verb == Verb::kBarrier) {
      meet_->run(message, given, taken, interrupt);
      return;
    }
    void* stream = options_.stream ? options_.stream() : nullptr;
    library_.require(queue(message, given, taken, count, nbytes, type, op, stream),
                     describe(message) + " in group '" + name() + "'");
  }

  int queue(const Message& message, const char* given, char* taken, size_t count, size_t nbytes,
            int type, int op, void* stream) {
    const auto ranks = static_cast<size_t>(size());
    switch (message.verb) {
      case Verb::kAllReduce:
        return library_.all_reduce(given, taken, count, type, op, comm_, stream);
      case Verb::kReduce:
        if (message.peer != rank()) {
          options_.clear(taken, nbytes);
        }
        return library_.reduce(given, taken, count, type, op, message.peer, comm_, stream);
      case Verb::kBroadcast:
        return library_.broadcast(given, taken, nbytes, kUint8, message.peer, comm_, stream);
      case Verb::kAllGather:
        return library_.all_gather(given, taken, nbytes, kUint8, comm_, stream);
      case Verb::kReduceScatter:
        return library_.reduce_scatter(given, taken, count / ranks, type, op, comm_, stream);
      case Verb::kAllToAll:
        return in_one([&](int r) {
          const size_t row = nbytes / ranks;
          const size_t at = row * static_cast<size_t>(r);
          const int sent = library_.send(given + at, row, kUint8, r, comm_, stream);
          return sent == kSuccess ? library_.recv(taken + at, row, kUint8, r, comm_, stream) : sent;
        });
      case Verb::kExchange:
        if (message.source < 0) {
          options_.clear(taken, static_cast<size_t>(size_of(message.element)));
        }
        return in_one([&](int r) {
          const int sent =
              message.peer == r ? library_.send(given, nbytes, kUint8, r, comm_, stream) : kSuccess;
          return sent == kSuccess && message.source == r
                     ? library_.recv(taken, nbytes, kUint8, r, comm_, stream)
                     : sent;
        });
      case Verb::kBarrier:
        break;
    }
    return kSuccess;
  }

  // Calls for each rank as one operation, so that no order among them can block.
  template <typename F>
  int in_one(F call) {
    int result = library_.group_start();
    for (int r = 0; result == kSuccess && r < size(); ++r) {
      result = call(r);
    }
    const int ended = library_.group_end();
    return result == kSuccess ? ended : result;
  }

  std::shared_ptr<Communicator> meet_;
  NcclOptions options_;
  Library library_;
  ncclComm_t comm_ = nullptr;
};

}  // namespace

std::shared_ptr<Communicator> make_nccl(std::shared_ptr<Communicator> meet, NcclOptions options) {
  return std::make_shared<Nccl>(std::move(meet), std::move(options));
}

}  // namespace deepseek

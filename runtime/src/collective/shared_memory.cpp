// The transport between processes of one machine.
//
// Collectives go chunk by chunk. Each rank copies its chunk into its room, posts it, waits until
// all have posted theirs, and reads what it needs. There are two rooms: who posts a chunk has read
// all of the chunk before, so the room of the one before that is free again. Exchanges go piece by
// piece through a channel from rank to rank.
#include <algorithm>
#include <cstring>
#include <vector>

#include "deepseek/thread_pool.h"
#include "segment.h"

namespace deepseek {
namespace {

using collective::Channel;
using collective::Header;
using collective::Presence;
using collective::RankBlock;
using collective::Said;
using collective::Segment;
using collective::Signal;
using Clock = std::chrono::steady_clock;

constexpr auto kSpin = std::chrono::microseconds(50);
constexpr auto kPatience = std::chrono::milliseconds(20);  // between looks at whether all is well

std::string rank_text(int rank) {
  return "rank " + std::to_string(rank);
}

void copy(char* to, const char* from, int64_t nbytes) {
  if (nbytes > 0) {
    std::memcpy(to, from, static_cast<size_t>(nbytes));
  }
}

bool same(const Message& a, const Message& b) {
  return a.verb == b.verb && a.element == b.element && a.reduction == b.reduction &&
         a.peer == b.peer && a.count == b.count;
}

class SharedMemory : public Communicator {
 public:
  SharedMemory(std::string group, const Meeting& meeting, const InterruptCheck& interrupt)
      : Communicator(std::move(group), meeting.rank, meeting.size),
        segment_(name(), meeting, interrupt),
        timeout_(meeting.timeout),
        spins_(hardware_threads() >= meeting.size),
        others_(static_cast<size_t>(meeting.size)) {}

  ~SharedMemory() override {
    if (!forked()) {
      segment_.leave();
      wake_all();
    }
  }

  std::string_view transport() const override { return "shm"; }

 private:
  void carry_out(const Message& message, const char* given, char* taken,
                 const InterruptCheck& interrupt) override {
    if (!broken_.empty()) {
      throw CollectiveError(describe(message) + ": group '" + name() +
                            "' is of no use any more, since " + broken_);
    }
    ++number_;
    message_ = &message;
    interrupt_ = &interrupt;
    look_for_failure();
    Said& now = segment_.rank(rank()).now;
    now.say(number_, message);
    try {
      if (message.verb == Verb::kExchange) {
        exchange(message, given, taken);
      } else {
        together(message, given, taken);
      }
    } catch (const CollectiveError&) {
      throw;
    } catch (...) {  // Ctrl-C
      give_up("it was interrupted in " + describe(message));
      throw;
    }
    now.number.store(0, std::memory_order_relaxed);
  }

  // ---- collectives ----

  void together(const Message& message, const char* given, char* taken) {
    const bool rows = message.verb == Verb::kReduceScatter || message.verb == Verb::kAllToAll;
    const int64_t sections = rows ? size() : 1;
    const int64_t row = message.given_bytes() / sections;
    const int64_t room = segment_.header().chunk / sections & ~int64_t{63};
    const bool gives = message.verb != Verb::kBroadcast || message.peer == rank();
    ++together_;
    segment_.rank(rank()).said[together_ % 2].say(together_, message);
    int64_t at = 0;
    do {
      const int64_t nbytes = std::min(room, row - at);
      char* chunk = segment_.chunk(rank(), posted_);
      for (int64_t section = 0; gives && section < sections; ++section) {
        copy(chunk + section * room, given + section * row + at, nbytes);
      }
      segment_.rank(rank()).posted.set(posted_ + 1);
      for (int step = 1; step < size(); ++step) {
        const int other = (rank() + step) % size();
        Signal& posted = segment_.rank(other).posted;
        wait(posted, other, [&] {
          return static_cast<int32_t>(posted.value.load(std::memory_order_acquire) - posted_) > 0;
        });
        if (at == 0) {
          compare(message, other);
        }
      }
      take(message, given, taken, at, nbytes, row, room);
      ++posted_;
      at += nbytes;
    } while (at < row);
  }

  void compare(const Message& message, int other) {
    const Said& said = segment_.rank(other).said[together_ % 2];
    const Message theirs = said.message();
    if (!same(message, theirs)) {
      fail(rank_text(rank()) + " calls " + describe(message) + " while " + rank_text(other) +
           " calls " + describe(theirs) + ", as number " + std::to_string(together_) +
           " of the group's collectives");
    }
  }

  // What this rank needs of a chunk that all have posted.
  void take(const Message& message, const char* given, char* taken, int64_t at, int64_t nbytes,
            int64_t row, int64_t room) {
    if (nbytes == 0) {
      return;
    }
    switch (message.verb) {
      case Verb::kReduce:
        if (message.peer != rank()) {
          std::memset(taken + at, 0, static_cast<size_t>(nbytes));
          return;
        }
        [[fallthrough]];
      case Verb::kAllReduce:
      case Verb::kReduceScatter: {
        const bool scatters = message.verb == Verb::kReduceScatter;
        for (int r = 0; r < size(); ++r) {
          others_[static_cast<size_t>(r)] =
              segment_.chunk(r, posted_) + (scatters ? rank() * room : 0);
        }
        others_[static_cast<size_t>(rank())] = given + (scatters ? rank() * row : 0) + at;
        reduce_in_order(message.element, message.reduction, others_, taken + at,
                        nbytes / size_of(message.element));
        return;
      }
      case Verb::kBroadcast:
        copy(taken + at,
             message.peer == rank() ? given + at : segment_.chunk(message.peer, posted_), nbytes);
        return;
      case Verb::kAllGather:
      case Verb::kAllToAll: {
        const bool rows = message.verb == Verb::kAllToAll;
        for (int r = 0; r < size(); ++r) {
          const char* own = given + (rows ? r * row : 0) + at;
          const char* theirs = segment_.chunk(r, posted_) + (rows ? rank() * room : 0);
          copy(taken + r * row + at, r == rank() ? own : theirs, nbytes);
        }
        return;
      }
      case Verb::kBarrier:
      case Verb::kExchange:
        return;
    }
  }

  // ---- exchanges ----

  void exchange(const Message& message, const char* given, char* taken) {
    const int64_t total = message.given_bytes();
    if (message.peer == rank()) {
      copy(taken, given, total);
      return;
    }
    if (message.source < 0) {
      std::memset(taken, 0, static_cast<size_t>(size_of(message.element)));
    }
    // Both ways by turns, so that two ranks that give to each other need no room for all of it.
    Progress out{message.peer < 0, 0};
    Progress in{message.source < 0, 0};
    while (!out.done || !in.done) {
      const bool moved = (!out.done && write(message, given, total, out)) |
                         (!in.done && read(message, taken, total, in));
      if (!moved && !out.done) {
        Channel& channel = segment_.channel(rank(), message.peer);
        const uint32_t seen = channel.read.value.load(std::memory_order_acquire);
        wait(channel.read, message.peer, [&] {
          return channel.read.value.load(std::memory_order_acquire) != seen ||
                 (!in.done && readable(message.source));
        });
      } else if (!moved) {
        Channel& channel = segment_.channel(message.source, rank());
        wait(channel.written, message.source, [&] { return readable(message.source); });
      }
    }
  }

  struct Progress {
    bool done;
    int64_t at;
  };

  bool readable(int from) const {
    const Channel& channel = segment_.channel(from, rank());
    return channel.written.value.load(std::memory_order_acquire) !=
           channel.read.value.load(std::memory_order_relaxed);
  }

  bool write(const Message& message, const char* given, int64_t total, Progress& out) {
    Channel& channel = segment_.channel(rank(), message.peer);
    const uint32_t number = channel.written.value.load(std::memory_order_relaxed);
    if (number - channel.read.value.load(std::memory_order_acquire) == 2) {
      return false;
    }
    const int64_t nbytes = std::min(segment_.header().piece, total - out.at);
    channel.said[number % 2].say(out.at == 0 ? 1 : 2, message);
    copy(segment_.piece(rank(), message.peer, number), given + out.at, nbytes);
    channel.written.set(number + 1);
    out.at += nbytes;
    out.done = out.at == total;
    return true;
  }

  bool read(const Message& message, char* taken, int64_t total, Progress& in) {
    if (!readable(message.source)) {
      return false;
    }
    Channel& channel = segment_.channel(message.source, rank());
    const uint32_t number = channel.read.value.load(std::memory_order_relaxed);
    const Said& said = channel.said[number % 2];
    const Message theirs = said.message();
    const bool first = said.number.load(std::memory_order_relaxed) == 1;
    if (theirs.element != message.element || theirs.count != message.count ||
        first != (in.at == 0)) {
      fail(rank_text(rank()) + " calls " + describe(message) + " while " +
           rank_text(message.source) + " calls " + describe(theirs));
    }
    const int64_t nbytes = std::min(segment_.header().piece, total - in.at);
    copy(taken + in.at, segment_.piece(message.source, rank(), number), nbytes);
    channel.read.set(number + 1);
    in.at += nbytes;
    in.done = in.at == total;
    return true;
  }

  // ---- waiting ----

  template <typename Ready>
  void wait(Signal& signal, int other, Ready ready) {
    if (ready()) {
      return;
    }
    const auto begin = Clock::now();
    if (spins_) {
      do {
        for (int round = 0; round < 64; ++round) {
          if (ready()) {
            return;
          }
          __builtin_ia32_pause();
        }
      } while (Clock::now() - begin < kSpin);
    }
    while (true) {
      const uint32_t seen = signal.value.load(std::memory_order_seq_cst);
      if (ready()) {
        return;
      }
      signal.sleep(seen, kPatience);
      if (ready()) {
        return;
      }
      look_around(other, Clock::now() - begin, ready);
    }
  }

  // Throws where waiting for the other rank is in vain.
  template <typename Ready>
  void look_around(int other, Clock::duration waited, Ready ready) {
    look_for_failure();
    const RankBlock& them = segment_.rank(other);
    const std::string waits =
        rank_text(rank()) + " waits for " + rank_text(other) + " in " + describe(*message_) + ", ";
    const bool left = them.presence.load() == Presence::kLeft;
    if (left || !collective::is_alive(them.process.load(), them.born.load())) {
      if (ready()) {
        return;  // its last act
      }
      fail(waits + (left ? "which has left the group"
                         : "which has died (process " + std::to_string(them.process.load()) + ")"));
    }
    if (waited > timeout_) {
      const uint64_t number = them.now.number.load(std::memory_order_acquire);
      fail(waits + "which in " + std::to_string(timeout_.count()) + " ms has not come: it is in " +
           (number == 0 ? "none of the group's collectives" : describe(them.now.message())));
    }
    if (interrupt_->check != nullptr) {
      interrupt_->check(interrupt_->context);
    }
  }

  void look_for_failure() {
    const Header& header = segment_.header();
    const int failed = header.failed.load(std::memory_order_acquire);
    if (failed != 0) {
      broken_ = rank_text(failed - 1) + " gave up: " + header.reason.data();
      throw CollectiveError(context() + broken_);
    }
  }

  std::string context() const {
    return "op '" + std::string(kVerbs[static_cast<size_t>(message_->verb)]) + "' in group '" +
           name() + "': ";
  }

  [[noreturn]] void fail(const std::string& reason) {
    give_up(reason);
    throw CollectiveError(context() + reason);
  }

  // Lets the others know why nothing more will come from here.
  void give_up(const std::string& reason) {
    broken_ = reason;
    Header& header = segment_.header();
    int32_t nobody = 0;
    if (header.failing.compare_exchange_strong(nobody, rank() + 1)) {
      reason.copy(header.reason.data(), header.reason.size() - 1);
      header.failed.store(rank() + 1, std::memory_order_release);
    }
    wake_all();
  }

  void wake_all() {
    for (int r = 0; r < size(); ++r) {
      segment_.rank(r).posted.wake();
      for (int to = 0; to < size(); ++to) {
        segment_.channel(r, to).written.wake();
        segment_.channel(r, to).read.wake();
      }
    }
  }

  Segment segment_;
  std::chrono::milliseconds timeout_;
  bool spins_;  // there is a processor for each rank
  std::vector<const char*> others_;
  uint64_t number_ = 0;    // of the messages so far
  uint64_t together_ = 0;  // of those that all take part in
  uint32_t posted_ = 0;    // chunks
  std::string broken_;
  const Message* message_ = nullptr;
  const InterruptCheck* interrupt_ = nullptr;
};

}  // namespace

std::shared_ptr<Communicator> make_shared_memory(std::string name, const Meeting& meeting,
                                                 const InterruptCheck& interrupt) {
  if (meeting.size == 1) {
    return make_alone(std::move(name));
  }
  return std::make_shared<SharedMemory>(std::move(name), meeting, interrupt);
}

}  // namespace deepseek

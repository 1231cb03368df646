// What all transports share: checking of messages, the world of one rank, communicators by name.
#include <pthread.h>

#include <atomic>
#include <cstring>
#include <map>
#include <mutex>

#include "deepseek/collective.h"

namespace deepseek {
namespace {

std::atomic<uint64_t> forks{0};

uint64_t count_forks() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1); });
  return forks.load(std::memory_order_relaxed) + static_cast<uint64_t>(registered);
}

std::string rank_text(int rank) {
  return "rank " + std::to_string(rank);
}

class Alone : public Communicator {
 public:
  explicit Alone(std::string name) : Communicator(std::move(name), 0, 1) {}
  std::string_view transport() const override { return "alone"; }

 private:
  void carry_out(const Message& message, const char* given, char* taken,
                 const InterruptCheck&) override {
    if (message.count > 0) {
      std::memcpy(taken, given, static_cast<size_t>(message.given_bytes()));
    }
  }
};

class Directory {
 public:
  Directory() { by_name_.emplace(kAlone, make_alone(std::string(kAlone))); }

  void add(std::shared_ptr<Communicator> communicator) {
    std::lock_guard lock(mutex_);
    if (!by_name_.emplace(communicator->name(), communicator).second) {
      throw std::invalid_argument("there is a group '" + communicator->name() + "' already");
    }
  }

  std::shared_ptr<Communicator> find(std::string_view name) {
    std::lock_guard lock(mutex_);
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) {
      throw std::invalid_argument("there is no group '" + std::string(name) +
                                  "' in this process, or no longer");
    }
    return found->second;
  }

  void remove(std::string_view name) {
    std::shared_ptr<Communicator> held;  // leaves the group when the lock is free again
    std::lock_guard lock(mutex_);
    const auto found = by_name_.find(name);
    if (found != by_name_.end() && name != kAlone) {
      held = std::move(found->second);
      by_name_.erase(found);
    }
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Communicator>, std::less<>> by_name_;
};

Directory& directory() {
  static auto* kept = new Directory;  // never destroyed: threads may still ask while others exit
  return *kept;
}

}  // namespace

int64_t size_of(Element element) {
  constexpr std::array<int64_t, kElements.size()> kSizes = {1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 2, 4, 8};
  return kSizes[static_cast<size_t>(element)];
}

int64_t Message::taken_bytes(int ranks) const {
  switch (verb) {
    case Verb::kAllGather:
      return given_bytes() * ranks;
    case Verb::kReduceScatter:
      return given_bytes() / ranks;
    case Verb::kExchange:
      return source < 0 ? size_of(element) : given_bytes();
    default:
      return given_bytes();
  }
}

std::string describe(const Message& message) {
  std::string text(kVerbs[static_cast<size_t>(message.verb)]);
  if (message.verb == Verb::kBarrier) {
    return text;
  }
  if (message.verb == Verb::kExchange) {
    text = message.source < 0 ? "send" : message.peer < 0 ? "recv" : text;
  }
  if (message.reduction != Reduction::kNone) {
    text += " (" + std::string(kReductions[static_cast<size_t>(message.reduction)]) + ")";
  }
  text += " of " + std::to_string(message.count) + " " +
          std::string(kElements[static_cast<size_t>(message.element)]);
  if (message.verb == Verb::kExchange) {
    text += message.peer < 0 ? "" : " to " + rank_text(message.peer);
    text += message.source < 0 ? "" : " from " + rank_text(message.source);
  } else if (message.peer >= 0) {
    text += " with root " + std::to_string(message.peer);
  }
  return text;
}

Communicator::Communicator(std::string name, int rank, int size)
    : name_(std::move(name)), rank_(rank), size_(size), forks_(count_forks()) {
  if (size < 1 || rank < 0 || rank >= size) {
    throw std::invalid_argument("group '" + name_ + "': got " + rank_text(rank) + " of " +
                                std::to_string(size) + "; wanted 0 <= rank < size");
  }
}

bool Communicator::forked() const {
  return forks.load(std::memory_order_relaxed) != forks_;
}

void Communicator::check(const Message& message) const {
  const auto fail = [&](const std::string& wanted) {
    throw std::invalid_argument(describe(message) + " in group '" + name_ + "' of " +
                                std::to_string(size_) + " ranks: wanted " + wanted);
  };
  if (message.count < 0) {
    fail("a count that is not negative");
  }
  const bool rooted = message.verb == Verb::kReduce || message.verb == Verb::kBroadcast;
  const bool exchange = message.verb == Verb::kExchange;
  if (message.peer >= size_ || message.source >= size_ || (rooted && message.peer < 0) ||
      (exchange && message.peer < 0 && message.source < 0)) {
    fail("a rank below " + std::to_string(size_));
  }
  if (exchange && message.peer != message.source &&
      (message.peer == rank_ || message.source == rank_)) {
    fail("another rank than its own");
  }
  const bool rows = message.verb == Verb::kReduceScatter || message.verb == Verb::kAllToAll;
  if (rows && message.count % size_ != 0) {
    fail("as many elements for each rank");
  }
  const bool reduces = message.verb == Verb::kAllReduce || message.verb == Verb::kReduce ||
                       message.verb == Verb::kReduceScatter;
  const Reduction reduction = message.reduction;
  if (reduces != (reduction != Reduction::kNone)) {
    fail(reduces ? "a reduction" : "no reduction");
  }
  if (message.element == Element::kBool && reduces && reduction != Reduction::kMin &&
      reduction != Reduction::kMax) {
    fail("min (all) or max (any) for truth values");
  }
  if (reduction == Reduction::kAvg && message.element < Element::kFloat16) {
    fail("floats for a mean");
  }
}

void Communicator::run(const Message& message, const void* given, void* taken,
                       const InterruptCheck& interrupt) {
  check(message);
  if (forked() && size_ > 1) {
    throw CollectiveError(describe(message) + ": group '" + name_ +
                          "' belongs to the process that this one was forked from; a process that "
                          "takes part makes its own");
  }
  std::lock_guard lock(mutex_);
  carry_out(message, static_cast<const char*>(given), static_cast<char*>(taken), interrupt);
}

std::shared_ptr<Communicator> make_alone(std::string name) {
  return std::make_shared<Alone>(std::move(name));
}

void add_communicator(std::shared_ptr<Communicator> communicator) {
  directory().add(std::move(communicator));
}

std::shared_ptr<Communicator> find_communicator(std::string_view name) {
  return directory().find(name);
}

void remove_communicator(std::string_view name) {
  directory().remove(name);
}

}  // namespace deepseek

// A test is a function that registers itself; a failed check ends it with file, line and text.
#pragma once

#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace deepseek::test {

struct Case {
  const char* name;
  void (*run)();
};

inline std::vector<Case>& cases() {
  static std::vector<Case> list;
  return list;
}

struct Registration {
  Registration(const char* name, void (*run)()) { cases().push_back({name, run}); }
};

class Failure : public std::runtime_error {
 public:
  Failure(const char* file, int line, const std::string& what)
      : std::runtime_error(std::string(file) + ":" + std::to_string(line) + ": " + what) {}
};

template <typename A, typename B>
void check_equal(const A& a, const B& b, const char* text, const char* file, int line) {
  if (!(a == b)) {
    std::ostringstream message;
    message << text << ": " << a << " is not " << b;
    throw Failure(file, line, message.str());
  }
}

// Runs `body`, which must throw an E whose message contains `part`.
template <typename E>
void check_throws(const std::function<void()>& body, const std::string& part, const char* file,
                  int line) {
  try {
    body();
  } catch (const E& error) {
    if (std::string(error.what()).find(part) == std::string::npos) {
      throw Failure(file, line, "the error says: " + std::string(error.what()));
    }
    return;
  }
  throw Failure(file, line, "no error, expected: " + part);
}

}  // namespace deepseek::test

#define TEST(name)                                                              \
  static void name();                                                           \
  static const ::deepseek::test::Registration name##_registration(#name, name); \
  static void name()

#define CHECK(condition)                                               \
  do {                                                                 \
    if (!(condition))                                                  \
      throw ::deepseek::test::Failure(__FILE__, __LINE__, #condition); \
  } while (false)

#define CHECK_EQUAL(a, b) ::deepseek::test::check_equal((a), (b), #a, __FILE__, __LINE__)

#define CHECK_THROWS(E, part, ...) \
  ::deepseek::test::check_throws<E>([&] { __VA_ARGS__; }, part, __FILE__, __LINE__)

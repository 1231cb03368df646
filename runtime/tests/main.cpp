// Runs every test, or those whose name contains an argument.
#include <cstdio>
#include <cstring>
#include <exception>

#include "test.h"

int main(int argc, char** argv) {
  int failed = 0;
  int run = 0;
  for (const auto& test : deepseek::test::cases()) {
    if (argc > 1 && std::strstr(test.name, argv[1]) == nullptr) {
      continue;
    }
    ++run;
    try {
      test.run();
    } catch (const std::exception& error) {
      ++failed;
      std::printf("FAILED %s\n  %s\n", test.name, error.what());
    }
  }
  std::printf("%d tests, %d failed\n", run, failed);
  return failed == 0 && run > 0 ? 0 : 1;
}

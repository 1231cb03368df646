#include "deepseek/collective.h"

#include "test.h"

namespace deepseek {
namespace {

TEST(alone_exists) {
  CHECK_EQUAL(find_communicator(kAlone)->size(), 1);
}

}  // namespace
}  // namespace deepseek

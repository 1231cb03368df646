#include "deepseek/expr.h"

#include "test.h"

namespace deepseek {
namespace {

int64_t binary(ExprOp op, int64_t a, int64_t b) {
  const Expr expr({{ExprOp::kSymbol, 0}, {ExprOp::kSymbol, 1}, {op}}, 2);
  const int64_t symbols[] = {a, b};
  return expr.evaluate(symbols);
}

TEST(operators_have_floor_semantics) {
  CHECK_EQUAL(binary(ExprOp::kAdd, 3, 4), 7);
  CHECK_EQUAL(binary(ExprOp::kSub, 3, 4), -1);
  CHECK_EQUAL(binary(ExprOp::kMul, 3, 4), 12);
  CHECK_EQUAL(binary(ExprOp::kMin, 3, 4), 3);
  CHECK_EQUAL(binary(ExprOp::kMax, 3, 4), 4);
  CHECK_EQUAL(binary(ExprOp::kFloorDiv, -7, 2), -4);
  CHECK_EQUAL(binary(ExprOp::kFloorDiv, 7, -2), -4);
  CHECK_EQUAL(binary(ExprOp::kFloorDiv, -7, -2), 3);
  CHECK_EQUAL(binary(ExprOp::kMod, -7, 2), 1);
  CHECK_EQUAL(binary(ExprOp::kMod, 7, -2), -1);
  CHECK_EQUAL(binary(ExprOp::kMod, 6, -2), 0);
}

TEST(overflow_and_division_by_zero_are_errors) {
  CHECK_THROWS(std::invalid_argument, "division by zero", binary(ExprOp::kMod, 1, 0));
  CHECK_THROWS(std::invalid_argument, "64 bits", binary(ExprOp::kMul, INT64_MAX, 2));
  CHECK_THROWS(std::invalid_argument, "64 bits", binary(ExprOp::kFloorDiv, INT64_MIN, -1));
  CHECK_THROWS(std::invalid_argument, "64 bits", binary(ExprOp::kMod, INT64_MIN, -1));
}

TEST(malformed_expressions_are_refused) {
  CHECK_THROWS(std::invalid_argument, "lacks an operand", Expr({{ExprOp::kAdd}}, 0));
  CHECK_THROWS(std::invalid_argument, "exactly one value", Expr({}, 0));
  CHECK_THROWS(std::invalid_argument, "only 1 symbols", Expr({{ExprOp::kSymbol, 1}}, 1));
  CHECK_EQUAL(Expr({{ExprOp::kSymbol, 0}, {ExprOp::kConstant, 8}, {ExprOp::kMul}}, 1).text(),
              "s0 8 *");
}

}  // namespace
}  // namespace deepseek

#include "deepseek/expr.h"

#include <algorithm>
#include <stdexcept>

namespace deepseek {
namespace {

constexpr const char* kNames[] = {"", "s", "+", "-", "*", "//", "%", "min", "max"};

[[noreturn]] void fail(const Expr& expr, const char* what) {
  throw std::invalid_argument("size expression [" + expr.text() + "]: " + what);
}

int64_t floor_div(int64_t a, int64_t b) {
  const int64_t quotient = a / b;
  return quotient - ((a % b != 0) && ((a < 0) != (b < 0)));
}

}  // namespace

Expr::Expr(std::vector<ExprItem> items, int symbols) : items_(std::move(items)) {
  int depth = 0;
  for (const ExprItem& item : items_) {
    if (item.op == ExprOp::kConstant) {
      ++depth;
    } else if (item.op == ExprOp::kSymbol) {
      if (item.value < 0 || item.value >= symbols) {
        fail(*this, ("there are only " + std::to_string(symbols) + " symbols").c_str());
      }
      ++depth;
    } else if (depth < 2) {
      fail(*this, "an operator lacks an operand");
    } else {
      --depth;
    }
  }
  if (depth != 1) {
    fail(*this, "must leave exactly one value");
  }
}

int64_t Expr::evaluate(std::span<const int64_t> symbols) const {
  if (items_.size() == 1 && items_[0].op == ExprOp::kConstant) {
    return items_[0].value;
  }
  std::vector<int64_t> stack;
  stack.reserve(items_.size());
  for (const ExprItem& item : items_) {
    if (item.op == ExprOp::kConstant) {
      stack.push_back(item.value);
      continue;
    }
    if (item.op == ExprOp::kSymbol) {
      stack.push_back(symbols[static_cast<size_t>(item.value)]);
      continue;
    }
    const int64_t b = stack.back();
    stack.pop_back();
    int64_t& a = stack.back();
    bool overflow = false;
    switch (item.op) {
      case ExprOp::kAdd:
        overflow = __builtin_add_overflow(a, b, &a);
        break;
      case ExprOp::kSub:
        overflow = __builtin_sub_overflow(a, b, &a);
        break;
      case ExprOp::kMul:
        overflow = __builtin_mul_overflow(a, b, &a);
        break;
      case ExprOp::kMin:
        a = std::min(a, b);
        break;
      case ExprOp::kMax:
        a = std::max(a, b);
        break;
      default:
        if (b == 0) {
          fail(*this, "division by zero");
        }
        overflow = a == INT64_MIN && b == -1;
        if (!overflow) {
          const int64_t quotient = floor_div(a, b);
          a = item.op == ExprOp::kFloorDiv ? quotient : a - quotient * b;
        }
    }
    if (overflow) {
      fail(*this, "the value exceeds 64 bits");
    }
  }
  return stack.back();
}

std::string Expr::text() const {
  std::string text;
  for (const ExprItem& item : items_) {
    text += text.empty() ? "" : " ";
    text += kNames[static_cast<size_t>(item.op)];
    if (item.op == ExprOp::kConstant || item.op == ExprOp::kSymbol) {
      text += std::to_string(item.value);
    }
  }
  return text;
}

}  // namespace deepseek

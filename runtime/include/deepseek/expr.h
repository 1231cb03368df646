// Expr: an integer expression over a Program's symbols, in postfix.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace deepseek {

enum class ExprOp : uint8_t { kConstant, kSymbol, kAdd, kSub, kMul, kFloorDiv, kMod, kMin, kMax };

struct ExprItem {
  ExprOp op;
  int64_t value = 0;  // the constant, or the symbol's number
  bool operator==(const ExprItem&) const = default;
};

class Expr {
 public:
  Expr(int64_t constant) : items_{{ExprOp::kConstant, constant}} {}
  // Throws std::invalid_argument if the items do not form one expression over `symbols` symbols.
  Expr(std::vector<ExprItem> items, int symbols);

  static Expr symbol(int number) { return Expr({{ExprOp::kSymbol, number}}, number + 1); }

  // Floor semantics, as in Python; throws std::invalid_argument on overflow and division by zero.
  int64_t evaluate(std::span<const int64_t> symbols) const;
  std::string text() const;
  const std::vector<ExprItem>& items() const { return items_; }
  bool operator==(const Expr&) const = default;

 private:
  std::vector<ExprItem> items_;
};

}  // namespace deepseek

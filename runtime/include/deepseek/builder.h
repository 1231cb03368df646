// ProgramBuilder: declares slots, fills blocks of steps, gives a Program.
//
// build() numbers the steps depth first and computes the temps' lifetimes from the steps that touch
// them.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "deepseek/program.h"

namespace deepseek {

// An argument as its builder states it.
struct Ref {
  int slot = -1;
  std::optional<Expr> offset;  // bytes
  int loop = -1;               // with stride: plus the loop's index * stride bytes
  std::optional<Expr> stride;

  Ref(int slot) : slot(slot) {}
  Ref(int slot, Expr offset) : slot(slot), offset(std::move(offset)) {}
  Ref(int slot, Expr offset, int loop, Expr stride)
      : slot(slot), offset(std::move(offset)), loop(loop), stride(std::move(stride)) {}
};

struct Row {
  std::vector<Ref> buffers;
  std::vector<Expr> sizes;
  Expr grid;
};

class ProgramBuilder;

// An ordered list of steps under construction; becomes part of exactly one place.
class Block {
 public:
  void launch(std::shared_ptr<const Code> code, std::string_view symbol, std::vector<Row> rows,
              Expr scratch = 0, Expr grain = 1, std::string label = {});
  void launch(Kernel kernel, std::vector<Row> rows, Expr scratch = 0, Expr grain = 1,
              std::string label = {});
  void call(std::string_view routine, std::vector<Ref> buffers, std::vector<Expr> sizes,
            std::string label = {});
  void host(HostFunction function, std::vector<Ref> buffers, std::vector<Expr> sizes,
            std::string label = {});
  void copy(Ref dst, Ref src, Expr nbytes, std::string label = {});
  void sync(std::string label = {});
  void collective(std::string group, int ranks, Message message, Expr count,
                  std::optional<Ref> given, std::optional<Ref> taken, std::string label = {});
  void branch(Ref predicate, Block& then, Block& otherwise, std::string label = {});
  void loop_while(Block& condition, Ref predicate, Block& body, std::string label = {});
  void loop_for(int loop, Expr count, Block& body, std::optional<Ref> count_slot = {},
                std::string label = {});

 private:
  friend class ProgramBuilder;
  explicit Block(ProgramBuilder& builder) : builder_(builder) {}
  void add(decltype(Step::what) what, std::string label);
  Steps take(Block& block);

  ProgramBuilder& builder_;
  Steps steps_;
  bool used_ = false;
};

class ProgramBuilder {
 public:
  explicit ProgramBuilder(int symbols, std::string name = "program");
  ProgramBuilder(const ProgramBuilder&) = delete;
  ProgramBuilder& operator=(const ProgramBuilder&) = delete;

  int input(Expr nbytes, std::string label = {});
  int output(Expr nbytes, std::optional<int> may_alias = {}, std::string label = {});
  int temp(Expr nbytes, std::string label = {});
  int constant(std::shared_ptr<Buffer> buffer, std::string label = {});
  int loop();
  Block& block();
  Block& main() { return *blocks_.front(); }
  std::shared_ptr<Program> build();
  int num_symbols() const { return program_->num_symbols_; }

 private:
  friend class Block;
  int expr(const Expr& expr);
  std::vector<int> exprs(const std::vector<Expr>& exprs);
  Argument argument(const Ref& ref);
  std::vector<Argument> arguments(const std::vector<Ref>& refs);
  int add_slot(Slot slot);
  void require_open() const;

  std::shared_ptr<Program> program_;
  std::unordered_map<std::string, int> expr_ids_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<char> loop_used_;
  bool built_ = false;
};

}  // namespace deepseek

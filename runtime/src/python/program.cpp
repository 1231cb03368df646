// Code, Block, ProgramBuilder and Program for Python.
#include "deepseek/program.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings.h"
#include "deepseek/builder.h"
#include "deepseek/executor.h"
#include "deepseek/loader.h"
#include "deepseek/sort.h"
#include "gil.h"
#include "signals.h"

namespace deepseek::python {
namespace {

// ---- expressions and arguments -----------------------------------------------------------------

ExprItem to_item(py::handle object) {
  if (py::isinstance<py::int_>(object)) {
    return {ExprOp::kConstant, py::cast<int64_t>(object)};
  }
  const auto text = py::cast<std::string>(object);
  constexpr std::pair<std::string_view, ExprOp> kOperators[] = {
      {"+", ExprOp::kAdd}, {"-", ExprOp::kSub},   {"*", ExprOp::kMul},  {"//", ExprOp::kFloorDiv},
      {"%", ExprOp::kMod}, {"min", ExprOp::kMin}, {"max", ExprOp::kMax}};
  for (const auto& [name, op] : kOperators) {
    if (text == name) {
      return {op};
    }
  }
  const bool digits = text.size() > 1 && text.size() < 10 &&
                      text.find_first_not_of("0123456789", 1) == std::string::npos;
  if (text[0] != 's' || !digits) {
    throw py::value_error("size expression: '" + text +
                          "' is neither a symbol s0, s1, ... nor one of + - * // % min max");
  }
  return {ExprOp::kSymbol, std::stoll(text.substr(1))};
}

Expr to_expr(py::handle object, int symbols) {
  if (py::isinstance<py::int_>(object)) {
    return Expr(py::cast<int64_t>(object));
  }
  std::vector<ExprItem> items;
  for (const py::handle item : py::cast<py::sequence>(object)) {
    items.push_back(to_item(item));
  }
  return Expr(std::move(items), symbols);
}

std::vector<Expr> to_exprs(const py::sequence& list, int symbols) {
  std::vector<Expr> exprs;
  for (const py::handle item : list) {
    exprs.push_back(to_expr(item, symbols));
  }
  return exprs;
}

Ref to_ref(py::handle object, int symbols) {
  if (py::isinstance<py::int_>(object)) {
    return Ref(py::cast<int>(object));
  }
  const auto parts = py::cast<py::tuple>(object);
  if (parts.size() == 2) {
    return Ref(py::cast<int>(parts[0]), to_expr(parts[1], symbols));
  }
  if (parts.size() == 4) {
    return Ref(py::cast<int>(parts[0]), to_expr(parts[1], symbols), py::cast<int>(parts[2]),
               to_expr(parts[3], symbols));
  }
  throw py::value_error(
      "a buffer argument is slot, (slot, offset) or (slot, offset, loop, stride); got a tuple of " +
      std::to_string(parts.size()));
}

std::vector<Ref> to_refs(const py::sequence& list, int symbols) {
  std::vector<Ref> refs;
  for (const py::handle item : list) {
    refs.push_back(to_ref(item, symbols));
  }
  return refs;
}

// ---- host functions ----------------------------------------------------------------------------

// Holds a Python callable; a Program may die on a thread without the GIL.
class HostCallable {
 public:
  explicit HostCallable(py::function function)
      : function_(new py::function(std::move(function)), [](py::function* held) {
          const WithGil acquire;
          delete held;
        }) {}

  void operator()(std::span<const HostArgument> arguments, std::span<const int64_t> sizes) const {
    const WithGil acquire;
    py::list views;
    for (const HostArgument& argument : arguments) {
      views.append(make_view(argument.owner, argument.data, argument.nbytes, argument.writable));
    }
    py::tuple numbers(sizes.size());
    for (size_t i = 0; i < sizes.size(); ++i) {
      numbers[i] = sizes[i];
    }
    (*function_)(views, numbers);
  }

 private:
  std::shared_ptr<py::function> function_;
};

// ---- building ----------------------------------------------------------------------------------

// Blocks belong to their builder; both sides share it.
struct PyBlock {
  std::shared_ptr<ProgramBuilder> builder;
  Block* block;

  int symbols() const { return builder->num_symbols(); }

  void launch(const std::shared_ptr<Code>& code, const std::string& symbol,
              const py::sequence& rows, const py::object& scratch, const py::object& grain,
              std::string label) const {
    std::vector<Row> table;
    for (const py::handle item : rows) {
      const auto row = py::cast<py::tuple>(item);
      if (row.size() != 3) {
        throw py::value_error("a launch row is (buffers, sizes, grid); got a tuple of " +
                              std::to_string(row.size()));
      }
      table.push_back(
          {to_refs(row[0], symbols()), to_exprs(row[1], symbols()), to_expr(row[2], symbols())});
    }
    block->launch(code, symbol, std::move(table), to_expr(scratch, symbols()),
                  to_expr(grain, symbols()), std::move(label));
  }

  void call(const std::string& routine, const py::sequence& buffers, const py::sequence& sizes,
            std::string label) const {
    block->call(routine, to_refs(buffers, symbols()), to_exprs(sizes, symbols()), std::move(label));
  }

  void host(py::function function, const py::sequence& buffers, const py::sequence& sizes,
            std::string label) const {
    block->host(HostCallable(std::move(function)), to_refs(buffers, symbols()),
                to_exprs(sizes, symbols()), std::move(label));
  }

  void copy(const py::object& dst, const py::object& src, const py::object& nbytes,
            std::string label) const {
    block->copy(to_ref(dst, symbols()), to_ref(src, symbols()), to_expr(nbytes, symbols()),
                std::move(label));
  }

  void collective(std::string group, int ranks, const std::string& verb, const std::string& dtype,
                  const std::string& reduction, int peer, int source, const py::object& count,
                  const py::object& given, const py::object& taken, std::string label) const {
    const auto optional = [&](const py::object& ref) {
      return ref.is_none() ? std::optional<Ref>() : to_ref(ref, symbols());
    };
    block->collective(std::move(group), ranks, to_message(verb, dtype, reduction, peer, source),
                      to_expr(count, symbols()), optional(given), optional(taken),
                      std::move(label));
  }

  void sync(std::string label) const { block->sync(std::move(label)); }

  void branch(const py::object& predicate, const PyBlock& then, const PyBlock& otherwise,
              std::string label) const {
    block->branch(to_ref(predicate, symbols()), *then.block, *otherwise.block, std::move(label));
  }

  void loop_while(const PyBlock& condition, const py::object& predicate, const PyBlock& body,
                  std::string label) const {
    block->loop_while(*condition.block, to_ref(predicate, symbols()), *body.block,
                      std::move(label));
  }

  void loop_for(int loop, const py::object& count, const PyBlock& body,
                const py::object& count_slot, std::string label) const {
    std::optional<Ref> slot;
    if (!count_slot.is_none()) {
      slot = to_ref(count_slot, symbols());
    }
    block->loop_for(loop, to_expr(count, symbols()), *body.block, std::move(slot),
                    std::move(label));
  }
};

using Builder = std::shared_ptr<ProgramBuilder>;

// ---- running -----------------------------------------------------------------------------------

std::vector<int64_t> to_numbers(const py::tuple& symbols) {
  std::vector<int64_t> numbers;
  numbers.reserve(symbols.size());
  for (const py::handle item : symbols) {
    const int64_t number = PyLong_AsLongLong(item.ptr());
    if (number == -1 && PyErr_Occurred() != nullptr) {
      throw py::error_already_set();
    }
    numbers.push_back(number);
  }
  return numbers;
}

py::list run_program(const Program& program, const py::sequence& inputs, const py::tuple& symbols,
                     const std::optional<py::sequence>& donate) {
  std::vector<std::shared_ptr<Buffer>> buffers;
  buffers.reserve(inputs.size());
  for (const py::handle input : inputs) {
    buffers.push_back(as_buffer(input, "Program.run, inputs"));
    wait_while_claimed(*buffers.back());
  }
  std::vector<char> flags;
  if (donate) {
    for (const py::handle flag : *donate) {
      flags.push_back(PyObject_IsTrue(flag.ptr()) == 1 ? 1 : 0);
    }
  }
  const std::vector<int64_t> numbers = to_numbers(symbols);
  std::vector<std::shared_ptr<Buffer>> outputs;
  SignalCheck signals;
  {
    const WithoutGil release;
    outputs = run(program, {buffers, numbers, flags, signals.hook()});
  }
  py::list result(outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    result[i] = py::cast(std::move(outputs[i]));  // a donated input's own object, if it is one
  }
  return result;
}

py::dict bind_info(const Program& program, const py::tuple& symbols) {
  const auto binding = program.bind(to_numbers(symbols));
  const auto nbytes_of = [&](int slot) { return binding->slot_nbytes[static_cast<size_t>(slot)]; };
  py::list temps;
  for (size_t i = 0; i < program.temps().size(); ++i) {
    const int slot = program.temps()[i];
    const Slot& temp = program.slots()[static_cast<size_t>(slot)];
    py::dict info;
    info["slot"] = slot;
    info["label"] = temp.label;
    info["nbytes"] = nbytes_of(slot);
    info["first"] = temp.first;
    info["last"] = temp.last;
    info["offset"] = binding->offsets[i];
    temps.append(info);
  }
  py::list inputs;
  for (const int slot : program.inputs()) {
    inputs.append(nbytes_of(slot));
  }
  py::list outputs;
  for (const int slot : program.outputs()) {
    outputs.append(nbytes_of(slot));
  }
  size_t constant_bytes = 0;
  for (const Slot& slot : program.slots()) {
    constant_bytes += slot.constant ? slot.constant->nbytes() : 0;
  }
  py::dict info;
  info["arena_bytes"] = binding->arena_bytes;
  info["lower_bound"] = binding->lower_bound;
  info["scratch_bytes"] = binding->scratch_bytes;
  info["constant_bytes"] = constant_bytes;
  info["inputs"] = inputs;
  info["outputs"] = outputs;
  info["temps"] = temps;
  return info;
}

py::dict counters(const Program& program) {
  const Counters& counters = program.counters();
  py::dict dict;
  dict["runs"] = counters.runs.load();
  dict["launches"] = counters.launches.load();
  dict["externs"] = counters.externs.load();
  dict["hosts"] = counters.hosts.load();
  dict["copies"] = counters.copies.load();
  dict["collectives"] = counters.collectives.load();
  dict["bindings"] = counters.bindings.load();
  return dict;
}

void call_kernel(const Code& code, const std::string& symbol, const py::sequence& buffers,
                 const std::vector<int64_t>& sizes, int64_t begin, int64_t end, size_t scratch) {
  auto* kernel = reinterpret_cast<Kernel>(code.symbol(symbol));
  if (kernel == nullptr) {
    throw py::key_error("the code has no kernel '" + symbol + "'");
  }
  std::vector<std::shared_ptr<Buffer>> held;
  std::vector<void*> pointers;
  for (const py::handle item : buffers) {
    held.push_back(as_buffer(item, "call_kernel, buffers"));
    pointers.push_back(held.back()->data());
  }
  // Large blocks of the pool begin on a page, as kernels expect of their scratch.
  const auto block = Buffer::allocate(std::max(scratch, Pool::kLarge), "scratch");
  const WithoutGil release;
  kernel(pointers.data(), sizes.data(), begin, end, block->data());
}

void bind_code(py::module_& module) {
  py::register_exception<LoadError>(module, "LoadError", PyExc_ValueError);
  py::class_<Code, std::shared_ptr<Code>>(module, "Code", py::is_final(),
                                          "A loaded relocatable object; mapped while it lives.")
      .def(py::init([](const py::object& data) {
             const Bytes bytes(data, "Code");
             return std::make_shared<Code>(bytes.span().data(), bytes.span().size());
           }),
           py::arg("data"))
      .def(
          "symbol",
          [](const Code& code, const std::string& name) {
            void* address = code.symbol(name);
            if (address == nullptr) {
              std::string known;
              for (const auto& [symbol, _] : code.symbols()) {
                known += (known.empty() ? "" : ", ") + symbol;
              }
              throw py::key_error("no symbol '" + name + "'; there are: " + known);
            }
            return reinterpret_cast<uintptr_t>(address);
          },
          py::arg("name"))
      .def_property_readonly("symbols",
                             [](const Code& code) {
                               std::vector<std::string> names;
                               for (const auto& [symbol, _] : code.symbols()) {
                                 names.push_back(symbol);
                               }
                               return names;
                             })
      .def_property_readonly("nbytes", &Code::nbytes);
  module.def("call_kernel", &call_kernel, py::arg("code"), py::arg("symbol"), py::arg("buffers"),
             py::arg("sizes"), py::arg("begin"), py::arg("end"), py::arg("scratch") = 0);
}

void bind_building(py::module_& module) {
  py::class_<PyBlock>(module, "Block", py::is_final(), "An ordered list of steps.")
      .def("launch", &PyBlock::launch, py::arg("code"), py::arg("symbol"), py::arg("rows"),
           py::arg("scratch") = 0, py::arg("grain") = 1, py::arg("label") = "")
      .def("extern", &PyBlock::call, py::arg("routine"), py::arg("buffers"),
           py::arg("sizes") = py::tuple(), py::arg("label") = "")
      .def("host", &PyBlock::host, py::arg("function"), py::arg("buffers"),
           py::arg("sizes") = py::tuple(), py::arg("label") = "")
      .def("copy", &PyBlock::copy, py::arg("dst"), py::arg("src"), py::arg("nbytes"),
           py::arg("label") = "")
      .def("collective", &PyBlock::collective, py::arg("group"), py::arg("ranks"), py::arg("verb"),
           py::arg("dtype"), py::arg("reduction"), py::arg("peer"), py::arg("source"),
           py::arg("count"), py::arg("given"), py::arg("taken"), py::arg("label") = "")
      .def("sync", &PyBlock::sync, py::arg("label") = "")
      .def("if_", &PyBlock::branch, py::arg("predicate"), py::arg("then"), py::arg("otherwise"),
           py::arg("label") = "")
      .def("while_", &PyBlock::loop_while, py::arg("condition"), py::arg("predicate"),
           py::arg("body"), py::arg("label") = "")
      .def("for_", &PyBlock::loop_for, py::arg("loop"), py::arg("count"), py::arg("body"),
           py::arg("count_slot") = py::none(), py::arg("label") = "");

  py::class_<ProgramBuilder, Builder>(module, "ProgramBuilder", py::is_final(),
                                      "Declares slots, fills blocks, builds a Program.")
      .def(py::init<int, std::string>(), py::arg("symbols"), py::arg("name") = "program")
      .def(
          "input",
          [](ProgramBuilder& b, const py::object& nbytes, std::string label) {
            return b.input(to_expr(nbytes, b.num_symbols()), std::move(label));
          },
          py::arg("nbytes"), py::arg("label") = "")
      .def(
          "output",
          [](ProgramBuilder& b, const py::object& nbytes, std::optional<int> may_alias,
             std::string label) {
            return b.output(to_expr(nbytes, b.num_symbols()), may_alias, std::move(label));
          },
          py::arg("nbytes"), py::arg("may_alias") = py::none(), py::arg("label") = "")
      .def(
          "temp",
          [](ProgramBuilder& b, const py::object& nbytes, std::string label) {
            return b.temp(to_expr(nbytes, b.num_symbols()), std::move(label));
          },
          py::arg("nbytes"), py::arg("label") = "")
      .def("constant", &ProgramBuilder::constant, py::arg("buffer"), py::arg("label") = "")
      .def("loop", &ProgramBuilder::loop)
      .def("block", [](const Builder& b) { return PyBlock{b, &b->block()}; })
      .def_property_readonly("main", [](const Builder& b) { return PyBlock{b, &b->main()}; })
      .def("build", &ProgramBuilder::build);
}

}  // namespace

void bind_program(py::module_& module) {
  bind_code(module);
  bind_building(module);
  py::class_<Program, std::shared_ptr<Program>>(module, "Program", py::is_final(),
                                                "Immutable steps over one arena.")
      .def_property_readonly("name", &Program::name)
      .def_property_readonly(
          "steps",
          [](const Program& program) {
            py::list steps;
            for (const auto& [kind, label] : program.list_steps()) {
              steps.append(py::make_tuple(py::str(kind.data(), kind.size()), label));
            }
            return steps;
          })
      .def("run", &run_program, py::arg("inputs"), py::arg("symbols") = py::tuple(),
           py::arg("donate") = py::none())
      .def("bind_info", &bind_info, py::arg("symbols") = py::tuple())
      .def("counters", &counters);

  module.def("extern_routines", [] {
    std::vector<std::string> names;
    for (const Routine* routine : routines()) {
      names.emplace_back(routine->name);
    }
    return names;
  });
  py::tuple dtypes(std::size(kSortDtypes));
  for (size_t i = 0; i < std::size(kSortDtypes); ++i) {
    dtypes[i] = std::string(kSortDtypes[i]);
  }
  module.attr("SORT_DTYPES") = dtypes;
}

}  // namespace deepseek::python

#include "walk.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <functional>

#include "deepseek/executor.h"
#include "gil.h"
#include "signals.h"

namespace deepseek::python {
namespace {

// ---- nodes and values --------------------------------------------------------------------------

bool is_computed(PyObject* value) {
  return slot(value, frontend.value_data) != Py_None;
}

bool requires_grad(PyObject* value) {
  return slot(value, frontend.value_requires_grad) == Py_True;
}

PyObject* node_of(PyObject* value) {
  return slot(value, frontend.value_node);
}

std::span<PyObject*> elements(PyObject* tuple) {
  return {&PyTuple_GET_ITEM(tuple, 0), static_cast<size_t>(PyTuple_GET_SIZE(tuple))};
}

std::span<PyObject*> inputs_of(PyObject* node) {
  return elements(slot(node, frontend.node_inputs));
}

std::span<PyObject*> outputs_of(PyObject* node) {
  return elements(slot(node, frontend.node_outputs));
}

// Whether a Tensor still shows the value to the user.
bool is_live(PyObject* value) {
  PyObject* handle = slot(value, frontend.value_handle);
  if (handle == Py_None) {
    return false;
  }
  PyObject* tensor = PyWeakref_GET_OBJECT(handle);
  return tensor != Py_None && slot(tensor, frontend.tensor_value) == value;
}

// Whether gradients arrive at what a node makes and go no further, whatever it reads.
bool stops_gradients(PyObject* node) {
  PyObject* op = slot(node, frontend.node_op);
  return op == frontend.input_op ||
         checked(PyObject_GetAttr(op, names().differentiable)).ptr() != Py_True;
}

bool is_leaf(PyObject* value) {
  return stops_gradients(node_of(value)) ||
         std::ranges::none_of(inputs_of(node_of(value)), requires_grad);
}

int64_t to_number(PyObject* integer) {
  const int64_t number = PyLong_AsLongLong(integer);
  if (number == -1 && PyErr_Occurred() != nullptr) {
    fail();
  }
  return number;
}

int64_t sequence_of(const py::object& node) {
  return to_number(slot(node.ptr(), frontend.node_sequence));
}

// What a node does to what types, as a number; 0 where that cannot be compared.
int64_t form_of(PyObject* node) {
  PyObject* form = slot(node, frontend.node_form);
  if (form != Py_None) {
    return to_number(form);
  }
  return to_number(checked(PyObject_CallOneArg(frontend.form, node)).ptr());
}

// ---- keys --------------------------------------------------------------------------------------

constexpr uint8_t kComputed = 1;
constexpr uint8_t kRequiresGrad = 2;
constexpr uint8_t kShown = 4;

template <typename T>
void append(std::string& key, T number) {
  key.append(reinterpret_cast<const char*>(&number), sizeof number);
}

// Puts the nodes in order, numbers the values and writes the key. `met(value, number, made)` adds
// to the marks of a value that comes from outside or that a node has made.
template <typename Met>
void finish(Walk& walk, bool keyed, bool computed_come_from_outside, Met met) {
  std::ranges::sort(walk.nodes, std::less{}, sequence_of);
  std::vector<int64_t> forms;
  forms.reserve(walk.nodes.size());
  for (const py::object& node : walk.nodes) {
    forms.push_back(keyed ? form_of(node.ptr()) : 0);  // from here on no Python code runs
  }
  const auto add = [&](PyObject* value, bool made) {
    const auto number = static_cast<uint32_t>(walk.values.size());
    if (!walk.values.add(value)) {
      append(walk.key, walk.values.find(value));
      return;
    }
    append(walk.key, number);
    append(walk.key, static_cast<uint8_t>(met(value, number, made) |
                                          (requires_grad(value) ? kRequiresGrad : 0)));
  };
  for (size_t i = 0; i < forms.size(); ++i) {
    PyObject* node = walk.nodes[i].ptr();
    append(walk.key, forms[i]);
    for (PyObject* value : inputs_of(node)) {
      add(value, false);
    }
    for (PyObject* value : outputs_of(node)) {
      if (computed_come_from_outside && is_computed(value)) {
        append(walk.key, Numbering::kUnknown);
      } else {
        add(value, true);
      }
    }
  }
  if (!keyed || std::ranges::find(forms, 0) != forms.end()) {
    walk.key.clear();
  }
}

void put(PyObject* object, Py_ssize_t offset, py::handle value, std::vector<py::object>& dropped) {
  PyObject* before = std::exchange(slot(object, offset), value.inc_ref().ptr());
  dropped.push_back(py::reinterpret_steal<py::object>(before));
}

py::list objects_at(const Walk& walk, const std::vector<uint32_t>& numbers) {
  py::list list(numbers.size());
  for (size_t i = 0; i < numbers.size(); ++i) {
    list[i] = py::handle(walk.values[numbers[i]]);
  }
  return list;
}

}  // namespace

// ---- numbering ---------------------------------------------------------------------------------

size_t Numbering::place(PyObject* object) const {
  const size_t mask = table_.size() - 1;
  size_t at = ((reinterpret_cast<uintptr_t>(object) >> 4) * 0x9E3779B97F4A7C15U >> 32) & mask;
  while (table_[at] != kUnknown && objects_[table_[at]] != object) {
    at = (at + 1) & mask;
  }
  return at;
}

uint32_t Numbering::find(PyObject* object) const {
  return table_.empty() ? kUnknown : table_[place(object)];
}

bool Numbering::add(PyObject* object) {
  if (2 * objects_.size() >= table_.size()) {
    grow();
  }
  uint32_t& number = table_[place(object)];
  if (number != kUnknown) {
    return false;
  }
  number = static_cast<uint32_t>(objects_.size());
  objects_.push_back(object);
  return true;
}

void Numbering::grow() {
  table_.assign(std::max<size_t>(32, 2 * table_.size()), kUnknown);
  for (size_t i = 0; i < objects_.size(); ++i) {
    table_[place(objects_[i])] = static_cast<uint32_t>(i);
  }
}

// ---- walks -------------------------------------------------------------------------------------

Pending::Pending(const py::sequence& wanted) {
  Numbering asked;
  Numbering seen;
  const auto visit = [&](PyObject* value) {
    if (!is_computed(value) && seen.add(node_of(value))) {
      nodes.push_back(py::reinterpret_borrow<py::object>(node_of(value)));
    }
  };
  for (const py::handle value : wanted) {
    if (Py_TYPE(value.ptr()) != frontend.value) {
      throw py::type_error("Pending: wants values of a graph");
    }
    asked.add(value.ptr());
    visit(value.ptr());
  }
  for (size_t i = 0; i < nodes.size(); ++i) {
    for (PyObject* value : inputs_of(nodes[i].ptr())) {
      visit(value);
    }
  }
  finish(*this, true, true, [&](PyObject* value, uint32_t number, bool made) -> uint8_t {
    if (!made) {
      inputs.push_back(number);
      return kComputed;
    }
    if (asked.find(value) == Numbering::kUnknown && !is_live(value)) {
      return 0;
    }
    shown.push_back(number);
    return kShown;
  });
}

History::History(py::object value, bool keyed) : top(std::move(value)) {
  Numbering seen;
  const auto visit = [&](PyObject* made) {
    if (requires_grad(made) && !is_leaf(made) && seen.add(node_of(made))) {
      nodes.push_back(py::reinterpret_borrow<py::object>(node_of(made)));
    }
  };
  visit(top.ptr());
  for (size_t i = 0; i < nodes.size(); ++i) {
    for (PyObject* input : inputs_of(nodes[i].ptr())) {
      visit(input);
    }
  }
  finish(*this, keyed, false, [&](PyObject* met, uint32_t number, bool made) -> uint8_t {
    if (!made && requires_grad(met)) {
      leaves.push_back(number);
    }
    return 0;
  });
  if (values.add(top.ptr())) {
    leaves.push_back(0);  // nothing lies between the value and itself
  }
  if (keyed && (!key.empty() || nodes.empty())) {
    append(key, values.find(top.ptr()));
  }
}

void History::forget() const {
  std::vector<py::object> dropped;
  const auto forget_outputs = [&](PyObject* node) {
    for (PyObject* value : outputs_of(node)) {
      put(value, frontend.value_requires_grad, Py_False, dropped);
      if (is_computed(value)) {
        put(value, frontend.value_node, frontend.input_node, dropped);
      }
    }
  };
  for (const uint32_t leaf : leaves) {
    if (!stops_gradients(node_of(values[leaf]))) {
      dropped.push_back(py::reinterpret_borrow<py::object>(node_of(values[leaf])));
      forget_outputs(dropped.back().ptr());
    }
  }
  for (const py::object& node : nodes) {
    forget_outputs(node.ptr());
  }
}

// ---- running what is pending -------------------------------------------------------------------

namespace {

using Buffers = std::vector<std::shared_ptr<Buffer>>;

// A Program for everything that is pending, wherever that has the same key.
struct Plan {
  std::shared_ptr<Program> program;
  std::vector<int> sources;       // of the outputs: the Program's output, or ~input
  std::vector<uint32_t> outputs;  // numbers of values
};

// Gives values their data. Their history ends here, unless a gradient may go back through it.
void show(const Pending& pending, const std::vector<uint32_t>& numbers,
          const std::function<py::object(size_t)>& data) {
  std::vector<py::object> dropped;
  for (size_t i = 0; i < numbers.size(); ++i) {
    PyObject* value = pending.values[numbers[i]];
    put(value, frontend.value_data, data(i), dropped);
    if (!requires_grad(value) || stops_gradients(node_of(value))) {
      put(value, frontend.value_node, frontend.input_node, dropped);
    }
  }
}

// Whether the walk alone can still reach a node, and values that nobody else holds.
bool is_forgotten(const py::object& node) {
  Py_ssize_t leading_here = 1;
  for (PyObject* value : outputs_of(node.ptr())) {
    if (node_of(value) == node.ptr()) {
      ++leading_here;
      if (Py_REFCNT(value) > 1) {
        return false;
      }
    }
  }
  return Py_REFCNT(node.ptr()) == leading_here;
}

// Lets the nodes go. A node and its values hold each other, and with them what they were computed
// from: where nobody else does that ends here, and not when Python next looks for cycles.
void let_go(Pending& pending) {
  pending.values = {};
  while (!pending.nodes.empty()) {
    const py::object node = std::move(pending.nodes.back());  // whoever reads it is gone by now
    pending.nodes.pop_back();
    if (is_forgotten(node)) {
      std::vector<py::object> dropped;
      for (PyObject* value : outputs_of(node.ptr())) {
        put(value, frontend.value_node, frontend.input_node, dropped);
      }
    }
  }
}

Buffers run_program(const Program& program, const Buffers& inputs) {
  SignalCheck signals;
  const WithoutGil release;
  return run(program, {inputs, {}, {}, signals.hook()});
}

void run_plan(const Plan& plan, Pending& pending) {
  Buffers inputs;
  inputs.reserve(pending.inputs.size());
  for (const uint32_t number : pending.inputs) {
    inputs.push_back(
        as_buffer(slot(pending.values[number], frontend.value_data), "a value's data"));
    wait_while_claimed(*inputs.back());
  }
  Buffers made;
  try {
    made = run_program(*plan.program, inputs);
  } catch (const OutOfMemory&) {
    PyGC_Collect();  // a recorded graph may be a cycle, and holds its buffers until then
    made = run_program(*plan.program, inputs);
  }
  show(pending, plan.outputs, [&](size_t i) {
    const int source = plan.sources[i];
    return py::cast(source < 0 ? inputs[static_cast<size_t>(~source)]
                               : made[static_cast<size_t>(source)]);
  });
  let_go(pending);
}

std::vector<uint32_t> numbers_of(const Walk& walk, const py::sequence& values) {
  std::vector<uint32_t> numbers;
  for (const py::handle value : values) {
    numbers.push_back(walk.values.find(value.ptr()));
    if (numbers.back() == Numbering::kUnknown) {
      throw py::key_error("numbers_of: the walk did not meet the value");
    }
  }
  return numbers;
}

py::bytes key_of(const Walk& walk) {
  return {walk.key.data(), walk.key.size()};
}

py::list nodes_of(const Walk& walk) {
  py::list list(walk.nodes.size());
  for (size_t i = 0; i < walk.nodes.size(); ++i) {
    list[i] = walk.nodes[i];
  }
  return list;
}

py::list values_of(const Walk& walk) {
  py::list list(walk.values.size());
  for (size_t i = 0; i < walk.values.size(); ++i) {
    list[i] = py::handle(walk.values[i]);
  }
  return list;
}

}  // namespace

void bind_walks(py::module_& module) {
  py::class_<Walk>(module, "Walk")
      .def_property_readonly("key", &key_of)
      .def_property_readonly("nodes", &nodes_of)
      .def_property_readonly("values", &values_of)
      .def("numbers_of", &numbers_of, py::arg("values"))
      .def("__len__", [](const Walk& walk) { return walk.nodes.size(); });
  py::class_<Pending, Walk>(module, "Pending", py::is_final())
      .def(py::init<const py::sequence&>(), py::arg("wanted"))
      .def_property_readonly("inputs", [](const Pending& p) { return objects_at(p, p.inputs); })
      .def_property_readonly("shown", [](const Pending& p) { return objects_at(p, p.shown); })
      .def(
          "show",
          [](const Pending& pending, const std::vector<uint32_t>& numbers, const py::list& data) {
            show(pending, numbers, [&](size_t i) { return py::object(data[i]); });
          },
          py::arg("numbers"), py::arg("data"));
  py::class_<History, Walk>(module, "History", py::is_final())
      .def(py::init<py::object, bool>(), py::arg("value"), py::arg("keyed"))
      .def_property_readonly("leaves", [](const History& h) { return objects_at(h, h.leaves); })
      .def("forget", &History::forget);
  py::class_<Plan>(module, "Plan", py::is_final())
      .def(py::init<std::shared_ptr<Program>, std::vector<int>, std::vector<uint32_t>>(),
           py::arg("program"), py::arg("sources"), py::arg("outputs"))
      .def("run", &run_plan, py::arg("pending"));
}

}  // namespace deepseek::python

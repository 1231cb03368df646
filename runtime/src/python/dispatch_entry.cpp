// Reads an entry, which Python made, into the dispatcher's form.
#include <pybind11/stl.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <unordered_map>

#include "entry.h"

namespace deepseek::python {
namespace {

PyObject* borrowed(const py::handle& object) {
  return object.ptr();
}

PyObject* truth(const py::handle& object) {
  return object.ptr() == Py_True ? Py_True : Py_False;
}

// An attribute whose value the owner keeps.
py::object get(const py::handle& object, const char* name) {
  return object.attr(name);
}

// ---- structures ----

bool is_static(const py::handle& part) {
  return py::hasattr(part, "by_value");
}

// What a Static is compared with; null where identity counts.
PyObject* copied_of(const py::handle& part) {
  return py::cast<bool>(get(part, "by_value")) ? borrowed(get(part, "copied")) : nullptr;
}

Item::Key read_key(const py::handle& part) {
  return {borrowed(get(part, "value")), copied_of(part)};
}

Item read_static(const py::handle& part) {
  if (py::cast<bool>(get(part, "fresh"))) {
    return {Item::Kind::kCopied, borrowed(get(part, "value")), 0, {}};
  }
  if (PyObject* copied = copied_of(part)) {
    return {Item::Kind::kSame, copied, 0, {}};
  }
  return {Item::Kind::kIs, borrowed(get(part, "value")), 0, {}};
}

void read_structure(const py::handle& part, std::vector<Item>& items) {
  if (is_static(part)) {
    items.push_back(read_static(part));
    return;
  }
  if (py::isinstance<py::str>(part)) {
    const bool tensor = py::cast<std::string>(part) == "tensor";
    items.push_back({tensor ? Item::Kind::kTensor : Item::Kind::kGenerator, nullptr, 0, {}});
    return;
  }
  const auto parts = py::cast<py::tuple>(part);
  if (py::isinstance<py::str>(parts[0])) {
    const bool number = py::cast<std::string>(parts[0]) == "number";
    items.push_back({number ? Item::Kind::kNumber : Item::Kind::kSize, borrowed(parts[1]), 0, {}});
    return;
  }
  Item item{Item::Kind::kSequence, borrowed(parts[0]), 0, {}};
  if (parts.size() == 3) {
    item.kind = Item::Kind::kDict;
    for (const py::handle key : py::cast<py::tuple>(parts[1])) {
      item.keys.push_back(read_key(key));
    }
  }
  const auto inner = py::cast<py::tuple>(parts[parts.size() - 1]);
  item.count = inner.size();
  items.push_back(std::move(item));
  for (const py::handle sub : inner) {
    read_structure(sub, items);
  }
}

void read_arguments(const py::handle& structure, Entry& entry) {
  const auto pair = py::cast<py::tuple>(py::cast<py::tuple>(structure)[1]);
  const auto positional = py::cast<py::tuple>(py::cast<py::tuple>(pair[0])[1]);
  entry.positional = positional.size();
  for (const py::handle part : positional) {
    read_structure(part, entry.arguments);
  }
  const auto keywords = py::cast<py::tuple>(pair[1]);
  for (const py::handle key : py::cast<py::tuple>(keywords[1])) {
    entry.keywords.push_back(read_key(key));
  }
  for (const py::handle part : py::cast<py::tuple>(keywords[2])) {
    read_structure(part, entry.arguments);
  }
}

Item::Kind leaf_kind(const std::string& kind) {
  if (kind == "tensor") {
    return Item::Kind::kTensor;
  }
  return kind == "number" ? Item::Kind::kNumber : Item::Kind::kGenerator;
}

Leaf read_leaf(const py::handle& given) {
  Leaf leaf{};
  leaf.kind = leaf_kind(py::cast<std::string>(get(given, "kind")));
  leaf.same = py::cast<size_t>(get(given, "same"));
  const py::object type = get(given, "type");
  leaf.type = type.is_none() ? nullptr : borrowed(type);
  leaf.dtype = borrowed(get(given, "dtype"));
  leaf.requires_grad = truth(get(given, "requires_grad"));
  leaf.dims = py::cast<std::vector<int64_t>>(get(given, "dims"));
  const py::object pinned = get(given, "pinned");
  leaf.pinned = borrowed(pinned) == frontend.missing ? nullptr : borrowed(pinned);
  return leaf;
}

// ---- the guard table ----

template <typename T>
T by_name(const std::unordered_map<std::string, T>& table, const py::handle& name) {
  const auto text = py::cast<std::string>(name);
  const auto found = table.find(text);
  if (found == table.end()) {
    throw std::invalid_argument("the dispatcher knows no guard '" + text + "'");
  }
  return found->second;
}

const std::unordered_map<std::string, Way> kWays = {
    {"held", Way::kHeld},     {"leaf", Way::kLeaf}, {"item", Way::kItem},
    {"attr", Way::kAttr},     {"own", Way::kOwn},   {"kind", Way::kKind},
    {"lookup", Way::kLookup}, {"cell", Way::kCell}, {"self", Way::kSelf}};
const std::unordered_map<std::string, Check> kChecks = {
    {"free", Check::kFree},  {"is", Check::kIs},       {"equal", Check::kEqual},
    {"copy", Check::kCopy},  {"keys", Check::kKeys},   {"length", Check::kLength},
    {"type", Check::kType},  {"array", Check::kArray}, {"same", Check::kSame},
    {"shows", Check::kShows}};
const std::unordered_map<std::string, Attr> kAttrs = {{"__code__", Attr::kCode},
                                                      {"__globals__", Attr::kGlobals},
                                                      {"__defaults__", Attr::kDefaults},
                                                      {"__kwdefaults__", Attr::kKwDefaults},
                                                      {"__func__", Attr::kFunc},
                                                      {"__self__", Attr::kSelf},
                                                      {"_grad", Attr::kGrad}};

Row read_row(const py::handle& given) {
  Row row{};
  row.parent = py::cast<size_t>(get(given, "parent"));
  row.way = by_name(kWays, get(given, "step"));
  row.check = by_name(kChecks, get(given, "check"));
  row.stays = py::cast<bool>(get(given, "stays"));
  row.key = borrowed(get(given, "key"));
  row.expected = borrowed(get(given, "expected"));
  if (PyLong_CheckExact(row.key)) {
    row.index = PyLong_AsSize_t(row.key);
    if (PyErr_Occurred() != nullptr) {
      PyErr_Clear();  // a dict's key, which is not used as a number
    }
  }
  if (row.way == Way::kAttr) {
    const auto found = kAttrs.find(py::cast<std::string>(py::handle(row.key)));
    row.attr = found == kAttrs.end() ? Attr::kOther : found->second;
  }
  if (row.check == Check::kSame || row.check == Check::kShows) {
    row.other = py::cast<size_t>(py::handle(row.expected));
  }
  if (row.expected != frontend.missing &&
      (row.check == Check::kKeys || row.check == Check::kLength)) {
    const auto pair = py::cast<py::tuple>(py::handle(row.expected));
    row.type = borrowed(pair[0]);
    if (row.check == Check::kKeys) {
      for (const py::handle key : py::cast<py::tuple>(pair[1])) {
        row.keys.push_back(borrowed(key));
      }
      row.count = row.keys.size();
    } else {
      row.count = py::cast<size_t>(pair[1]);
    }
    row.elements.assign(row.count, kNone);
  }
  return row;
}

// Lets a container's check put the elements in place: one pass over a dict needs no lookups.
void fill_from_parent(std::vector<Row>& rows, size_t number) {
  Row& row = rows[number];
  Row& parent = rows[row.parent];
  const bool sequence = parent.type == reinterpret_cast<PyObject*>(&PyList_Type) ||
                        parent.type == reinterpret_cast<PyObject*>(&PyTuple_Type);
  if (row.way != Way::kItem || row.stays || parent.stays || parent.elements.empty() ||
      (parent.check == Check::kLength && !sequence)) {
    return;
  }
  size_t place = row.index;
  if (parent.check == Check::kKeys) {
    const auto found = std::find(parent.keys.begin(), parent.keys.end(), row.key);
    if (found == parent.keys.end()) {
      return;
    }
    place = static_cast<size_t>(found - parent.keys.begin());
  }
  if (parent.elements[place] == kNone) {
    parent.elements[place] = number;
    row.filled = true;
  }
}

void read_table(const py::handle& table, Entry& entry) {
  for (const py::handle given : py::cast<py::list>(get(table, "rows"))) {
    entry.rows.push_back(read_row(given));
    const size_t number = entry.rows.size() - 1;
    fill_from_parent(entry.rows, number);
    if (!entry.rows.back().stays) {
      entry.hot.push_back(number);
    }
  }
}

// ---- inputs and outputs ----

Source::Kind source_kind(const std::string& kind, const py::handle& type) {
  if (kind == "tensor") {
    return Source::Kind::kTensor;
  }
  if (kind == "seed") {
    return Source::Kind::kSeed;
  }
  if (kind == "draw") {
    return Source::Kind::kDraw;
  }
  const bool is_float = py::cast<bool>(get(get(type, "dtype"), "is_float"));
  return is_float ? Source::Kind::kFloat : Source::Kind::kInt;
}

void read_inputs(const py::handle& plan, Entry& entry) {
  for (const py::handle given : py::cast<py::list>(get(plan, "bindings"))) {
    const py::object type = get(given, "type");
    const auto row = py::cast<size_t>(get(given, "row"));
    const auto kind = source_kind(py::cast<std::string>(get(given, "kind")), type);
    const bool checked = kind == Source::Kind::kTensor && entry.rows[row].way != Way::kLeaf;
    entry.inputs.push_back(
        {kind, checked, row, borrowed(type), truth(get(given, "requires_grad")), nullptr});
  }
}

// How many references there are to the object of a row where only one place in memory has it: that
// place, and the call for each row that leads there.
Py_ssize_t references_to(const Entry& entry, size_t number) {
  const auto leads_there = [&](const Row& row) {
    return !row.stays && ((row.check == Check::kSame && row.other == number) ||
                          (row.way == Way::kSelf && row.parent == number));
  };
  return 2 + std::count_if(entry.rows.begin(), entry.rows.end(), leads_there);
}

void read_effects(const py::handle& plan, Entry& entry) {
  for (const py::handle given : py::cast<py::list>(get(plan, "rebound"))) {
    const auto [row, output, requires_grad] = py::cast<std::tuple<size_t, size_t, bool>>(given);
    entry.rebound.push_back({row, output, requires_grad ? Py_True : Py_False});
  }
  for (const py::handle given : py::cast<py::list>(get(plan, "grads"))) {
    const auto parts = py::cast<py::tuple>(given);
    const auto output = py::cast<long>(parts[1]);
    entry.grads.push_back({py::cast<size_t>(parts[0]),
                           output < 0 ? kNone : static_cast<size_t>(output), borrowed(parts[2])});
  }
  for (const py::handle given : py::cast<py::list>(get(plan, "draws"))) {
    const auto [row, count] = py::cast<std::pair<size_t, int64_t>>(given);
    entry.draws.push_back({row, count});
  }
  for (const py::handle given : py::cast<py::list>(get(plan, "effects"))) {
    entry.effects.push_back(borrowed(given));
  }
  entry.donors.assign(py::len(get(get(plan, "executable"), "outputs")), kNone);
  for (const py::handle given : py::cast<py::list>(get(plan, "donated"))) {
    const auto [input, output, gradient] = py::cast<std::tuple<size_t, size_t, bool>>(given);
    const Py_ssize_t references = references_to(entry, entry.inputs[input].row);
    entry.donated.push_back({input, output, gradient, references});
    entry.donors[output] = input;
  }
  for (const py::handle given : py::cast<py::list>(get(plan, "returned"))) {
    const auto [output, requires_grad] = py::cast<std::pair<size_t, bool>>(given);
    entry.returned.emplace_back(output, requires_grad ? Py_True : Py_False);
    entry.linked = entry.linked || requires_grad;
  }
  read_structure(get(plan, "result"), entry.result);
}

// The tensors that must not turn out to be one another where one of them is written.
void find_distinct(Entry& entry) {
  std::map<size_t, bool> rows;
  for (const Source& input : entry.inputs) {
    if (input.kind == Source::Kind::kTensor) {
      rows.emplace(input.row, false);
    }
  }
  for (const Rebound& rebound : entry.rebound) {
    rows[rebound.row] = true;
  }
  for (const Gradient& gradient : entry.grads) {
    rows[gradient.row] = true;
  }
  if (!entry.rebound.empty() || !entry.grads.empty()) {
    entry.distinct.assign(rows.begin(), rows.end());
  }
}

// Whether the object of `row` is the gradient of that of `handle`.
bool is_gradient_of(const Row& row, size_t handle) {
  return row.attr == Attr::kGrad && row.parent == handle;
}

void find_written(Entry& entry) {
  for (size_t i = 0; i < entry.inputs.size(); ++i) {
    const size_t row = entry.inputs[i].row;
    const bool rebound = std::any_of(entry.rebound.begin(), entry.rebound.end(),
                                     [&](const Rebound& r) { return r.row == row; });
    const bool gradient = std::any_of(entry.grads.begin(), entry.grads.end(), [&](const auto& g) {
      return is_gradient_of(entry.rows[row], g.row);
    });
    if (entry.inputs[i].kind == Source::Kind::kTensor && (rebound || gradient)) {
      entry.written.push_back(i);
    }
  }
}

void read_executable(const py::handle& plan, Entry& entry) {
  const py::object executable = get(plan, "executable");
  entry.prepared = py::none();
  if (!py::cast<bool>(get(plan, "in_runtime"))) {
    entry.runner = get(executable, "run");
    return;
  }
  entry.program = py::cast<std::shared_ptr<Program>>(get(executable, "loaded"));
  entry.sources = py::cast<std::vector<int>>(get(executable, "from_input"));
  std::vector<int> in_order(entry.program->outputs().size());
  std::iota(in_order.begin(), in_order.end(), 0);
  entry.as_made = entry.sources == in_order;
  entry.prepared = get(executable, "prepared");
  if (!entry.prepared.is_none()) {
    entry.prepared_from = py::cast<std::vector<int>>(get(entry.prepared, "sources"));
  }
}

}  // namespace

std::shared_ptr<Entry> make_entry(py::handle plan) {
  auto entry = std::make_shared<Entry>();
  entry->plan = py::reinterpret_borrow<py::object>(plan);
  for (const py::handle item : py::cast<py::tuple>(get(plan, "context"))) {
    entry->context.push_back(borrowed(item));
  }
  read_arguments(get(plan, "structure"), *entry);
  for (const py::handle leaf : py::cast<py::list>(get(plan, "leaves"))) {
    entry->leaves.push_back(read_leaf(leaf));
  }
  entry->num_symbols = py::len(get(plan, "variables"));
  read_table(get(plan, "table"), *entry);
  read_inputs(plan, *entry);
  read_effects(plan, *entry);
  find_distinct(*entry);
  find_written(*entry);
  read_executable(plan, *entry);
  return entry;
}

}  // namespace deepseek::python

// Holds a call against an entry: the arguments' structure and types, the sizes, the guard table.
#include <algorithm>
#include <bit>
#include <cmath>

#include "dispatch.h"

namespace deepseek::python {
namespace {

[[noreturn]] void fail() {
  throw py::error_already_set();
}

bool is_true(PyObject* owned) {
  const auto result = py::reinterpret_steal<py::object>(owned);
  if (!result) {
    fail();
  }
  return result.ptr() == Py_True;
}

bool same_float(double a, double b) {
  return std::bit_cast<uint64_t>(a) == std::bit_cast<uint64_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

// Dict keys are compared by identity where they are not the plainest values.
bool same_key(PyObject* key, PyObject* expected) {
  if (key == expected) {
    return true;
  }
  if (Py_TYPE(key) != Py_TYPE(expected)) {
    return false;
  }
  if (PyUnicode_CheckExact(key)) {
    return PyUnicode_Compare(key, expected) == 0;
  }
  return PyLong_CheckExact(key) && PyObject_RichCompareBool(key, expected, Py_EQ) == 1;
}

// ---- arguments ----

class Matcher {
 public:
  Matcher(const Entry& entry, Frame& frame) : items_(entry.arguments), frame_(frame) {}

  bool match(const Arguments& given, const Entry& entry) {
    const size_t named =
        given.keywords == nullptr ? 0 : static_cast<size_t>(PyTuple_GET_SIZE(given.keywords));
    if (given.positional != entry.positional || named != entry.keywords.size()) {
      return false;
    }
    for (size_t i = 0; i < named; ++i) {
      if (!same_key(PyTuple_GET_ITEM(given.keywords, static_cast<Py_ssize_t>(i)),
                    entry.keywords[i])) {
        return false;
      }
    }
    for (size_t i = 0; i < given.positional + named; ++i) {
      if (!match(given.values[i])) {
        return false;
      }
    }
    return true;
  }

 private:
  bool match(PyObject* object) {
    const Item& item = items_[at_++];
    switch (item.kind) {
      case Item::Kind::kTensor:
        return match_tensor(object);
      case Item::Kind::kNumber:
        return match_number(item, object);
      case Item::Kind::kGenerator:
        return Py_TYPE(object) == frontend.generator && add(object);
      case Item::Kind::kSequence:
        return match_sequence(item, object);
      case Item::Kind::kDict:
        return match_dict(item, object);
      case Item::Kind::kSame:
        return same_plain(object, item.object);
      case Item::Kind::kIs:
        return object == item.object;
      case Item::Kind::kSize:
        break;
    }
    return false;
  }

  bool add(PyObject* leaf) {
    frame_.leaves.push_back(leaf);
    return true;
  }

  bool match_tensor(PyObject* object) {
    if (is_tensor(object)) {
      return add(object);
    }
    if (!PyObject_TypeCheck(object, frontend.array) &&
        !PyObject_TypeCheck(object, frontend.floating)) {
      return false;
    }
    for (const auto& [array, tensor] : frame_.converted) {
      if (array == object) {
        return add(tensor.ptr());
      }
    }
    auto made = py::reinterpret_steal<py::object>(PyObject_CallOneArg(frontend.as_tensor, object));
    if (!made) {
      fail();
    }
    frame_.converted.emplace_back(object, std::move(made));
    return add(frame_.converted.back().second.ptr());
  }

  bool match_number(const Item& item, PyObject* object) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(object)) != item.object) {
      return false;
    }
    if (PyLong_CheckExact(object)) {
      int overflow = 0;
      PyLong_AsLongLongAndOverflow(object, &overflow);
      if (overflow != 0) {
        return false;
      }
    }
    return add(object);
  }

  bool match_sequence(const Item& item, PyObject* object) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(object)) != item.object) {
      return false;
    }
    const bool tuple = PyTuple_Check(object);
    const auto count =
        static_cast<size_t>(tuple ? PyTuple_GET_SIZE(object) : PyList_GET_SIZE(object));
    if (count != item.count) {
      return false;
    }
    for (size_t i = 0; i < count; ++i) {
      const auto place = static_cast<Py_ssize_t>(i);
      if (!match(tuple ? PyTuple_GET_ITEM(object, place) : PyList_GET_ITEM(object, place))) {
        return false;
      }
    }
    return true;
  }

  bool match_dict(const Item& item, PyObject* object) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(object)) != item.object ||
        static_cast<size_t>(PyDict_GET_SIZE(object)) != item.count) {
      return false;
    }
    Py_ssize_t position = 0;
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    for (size_t i = 0; i < item.count; ++i) {
      if (PyDict_Next(object, &position, &key, &value) == 0 || !same_plain(key, item.keys[i]) ||
          !match(value)) {
        return false;
      }
    }
    return true;
  }

  const std::vector<Item>& items_;
  Frame& frame_;
  size_t at_ = 0;
};

bool sizes_fit(const Leaf& leaf, PyObject* shape, Frame& frame) {
  if (static_cast<size_t>(PyTuple_GET_SIZE(shape)) != leaf.dims.size()) {
    return false;
  }
  for (size_t axis = 0; axis < leaf.dims.size(); ++axis) {
    PyObject* size = PyTuple_GET_ITEM(shape, static_cast<Py_ssize_t>(axis));
    if (!PyLong_Check(size)) {
      return false;  // a placeholder, shown by a trace on another thread
    }
    const int64_t number = PyLong_AsLongLong(size);
    const int64_t dim = leaf.dims[axis];
    if (dim < 0) {
      frame.sizes[static_cast<size_t>(~dim)] = number;
    } else if (dim != number) {
      return false;
    }
  }
  return true;
}

bool leaf_fits(const Leaf& leaf, PyObject* object, Frame& frame) {
  if (leaf.kind == Item::Kind::kNumber) {
    return leaf.pinned == nullptr || same_plain(object, leaf.pinned);
  }
  if (leaf.kind != Item::Kind::kTensor) {
    return true;
  }
  PyObject* value = value_of(object);
  PyObject* type = slot(value, frontend.value_type);
  if (slot(value, frontend.value_requires_grad) != leaf.requires_grad) {
    return false;
  }
  if (leaf.type != nullptr) {
    return type == leaf.type;
  }
  return slot(type, frontend.type_dtype) == leaf.dtype &&
         sizes_fit(leaf, slot(type, frontend.type_shape), frame);
}

bool leaves_fit(const Entry& entry, Frame& frame) {
  frame.sizes.assign(entry.num_symbols, 0);
  for (size_t i = 0; i < entry.leaves.size(); ++i) {
    const Leaf& leaf = entry.leaves[i];
    if (leaf.same != i ? frame.leaves[leaf.same] != frame.leaves[i]
                       : !leaf_fits(leaf, frame.leaves[i], frame)) {
      return false;
    }
  }
  return true;
}

constexpr size_t kMostAdmitted = 1024;

std::shared_ptr<const Admitted> ask_about(const Entry& entry, const std::vector<int64_t>& sizes) {
  py::tuple numbers(sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) {
    numbers[i] = sizes[i];
  }
  auto admitted = std::make_shared<Admitted>();
  admitted->holder = entry.plan.attr("admit")(numbers);
  admitted->ok = !admitted->holder.is_none();
  if (admitted->ok) {
    const auto pair = py::reinterpret_borrow<py::tuple>(admitted->holder);
    for (const py::handle type : py::reinterpret_borrow<py::tuple>(pair[0])) {
      admitted->types.push_back(type.ptr());
    }
    for (const py::handle size : py::reinterpret_borrow<py::tuple>(pair[1])) {
      admitted->sizes.push_back(size.ptr());
    }
  }
  return admitted;
}

bool sizes_admitted(Entry& entry, Frame& frame) {
  const auto found = entry.admitted.find(frame.sizes);
  if (found != entry.admitted.end()) {
    frame.admitted = found->second;
    return frame.admitted->ok;
  }
  frame.admitted = ask_about(entry, frame.sizes);
  if (entry.admitted.size() >= kMostAdmitted) {
    entry.admitted.erase(entry.admitted.begin());
  }
  entry.admitted.emplace(frame.sizes, frame.admitted);
  return frame.admitted->ok;
}

// ---- the guard table ----

bool same_copy(PyObject* object, PyObject* expected);

bool same_parts(PyObject* object, PyObject* parts) {
  const Py_ssize_t count = PyList_GET_SIZE(parts);
  if (PyDict_CheckExact(object)) {
    if (PyDict_GET_SIZE(object) != count) {
      return false;
    }
    Py_ssize_t position = 0;
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    for (Py_ssize_t i = 0; i < count; ++i) {
      PyObject* pair = PyList_GET_ITEM(parts, i);
      if (PyDict_Next(object, &position, &key, &value) == 0 ||
          !same_plain(key, PyTuple_GET_ITEM(pair, 0)) ||
          !same_copy(value, PyTuple_GET_ITEM(pair, 1))) {
        return false;
      }
    }
    return true;
  }
  const bool tuple = PyTuple_CheckExact(object);
  if ((tuple ? PyTuple_GET_SIZE(object) : PyList_GET_SIZE(object)) != count) {
    return false;
  }
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* part = tuple ? PyTuple_GET_ITEM(object, i) : PyList_GET_ITEM(object, i);
    if (!same_copy(part, PyList_GET_ITEM(parts, i))) {
      return false;
    }
  }
  return true;
}

// A container against what guards.copied made of it.
bool same_copy(PyObject* object, PyObject* expected) {
  if (!PyTuple_CheckExact(expected)) {
    return same_plain(object, expected);
  }
  if (reinterpret_cast<PyObject*>(Py_TYPE(object)) != PyTuple_GET_ITEM(expected, 0)) {
    return false;
  }
  if (PyDict_CheckExact(object) || PyTuple_CheckExact(object) || PyList_CheckExact(object)) {
    return same_parts(object, PyTuple_GET_ITEM(expected, 1));
  }
  return is_true(PyObject_CallFunctionObjArgs(frontend.same, object, expected, nullptr));
}

class Walker {
 public:
  Walker(Entry& entry, Frame& frame)
      : rows_(entry.rows), objects_(frame.objects), frame_(frame), careful_(entry.careful) {}

  // Puts the row's object in place; false if its check does not hold.
  bool visit(size_t number) {
    const Row& row = rows_[number];
    PyObject* object = row.filled ? objects_[number] : reach(row);
    objects_[number] = object;
    if (careful_) {
      frame_.owned.push_back(py::reinterpret_borrow<py::object>(object));
    }
    return holds(row, object);
  }

 private:
  PyObject* own(PyObject* object) {
    if (object == nullptr) {
      if (PyErr_ExceptionMatches(PyExc_AttributeError) == 0 &&
          PyErr_ExceptionMatches(PyExc_LookupError) == 0 &&
          PyErr_ExceptionMatches(PyExc_TypeError) == 0 &&
          PyErr_ExceptionMatches(PyExc_ValueError) == 0) {
        fail();
      }
      PyErr_Clear();
      return frontend.missing;
    }
    frame_.owned.push_back(py::reinterpret_steal<py::object>(object));
    return object;
  }

  static PyObject* or_missing(PyObject* object) {
    if (object == nullptr && PyErr_Occurred() != nullptr) {
      fail();
    }
    return object == nullptr ? frontend.missing : object;
  }

  PyObject* reach(const Row& row) {
    PyObject* from =
        row.way == Way::kHeld || row.way == Way::kLeaf ? nullptr : objects_[row.parent];
    if (from == frontend.missing) {
      return from;
    }
    switch (row.way) {
      case Way::kHeld:
        return row.key;
      case Way::kLeaf:
        return frame_.leaves[row.index];
      case Way::kItem:
        return item(row, from);
      case Way::kAttr:
        return attribute(row, from);
      case Way::kOwn:
        return own_attribute(row, from);
      case Way::kKind:
        return reinterpret_cast<PyObject*>(Py_TYPE(from));
      case Way::kLookup:
        return PyType_Check(from)
                   ? or_missing(_PyType_Lookup(reinterpret_cast<PyTypeObject*>(from), row.key))
                   : frontend.missing;
      case Way::kCell:
        return cell(row, from);
      case Way::kSelf:
        return from;
    }
    return frontend.missing;
  }

  PyObject* item(const Row& row, PyObject* from) {
    if (PyDict_Check(from)) {
      return or_missing(PyDict_GetItemWithError(from, row.key));
    }
    const auto place = static_cast<Py_ssize_t>(row.index);
    if (PyTuple_Check(from)) {
      return place < PyTuple_GET_SIZE(from) ? PyTuple_GET_ITEM(from, place) : frontend.missing;
    }
    if (PyList_Check(from)) {
      return place < PyList_GET_SIZE(from) ? PyList_GET_ITEM(from, place) : frontend.missing;
    }
    return own(PyObject_GetItem(from, row.key));
  }

  PyObject* attribute(const Row& row, PyObject* from) {
    if (row.attr == Attr::kGrad && is_tensor(from)) {
      return slot(from, frontend.tensor_grad);
    }
    if (PyFunction_Check(from)) {
      const auto or_none = [](PyObject* object) { return object == nullptr ? Py_None : object; };
      switch (row.attr) {
        case Attr::kCode:
          return PyFunction_GET_CODE(from);
        case Attr::kGlobals:
          return PyFunction_GET_GLOBALS(from);
        case Attr::kDefaults:
          return or_none(PyFunction_GET_DEFAULTS(from));
        case Attr::kKwDefaults:
          return or_none(PyFunction_GET_KW_DEFAULTS(from));
        default:
          break;
      }
    }
    if (PyMethod_Check(from) && row.attr == Attr::kFunc) {
      return PyMethod_GET_FUNCTION(from);
    }
    if (PyMethod_Check(from) && row.attr == Attr::kSelf) {
      return PyMethod_GET_SELF(from);
    }
    return own(PyObject_GetAttr(from, row.key));
  }

  PyObject* own_attribute(const Row& row, PyObject* from) {
    if (PyModule_Check(from)) {
      return or_missing(PyDict_GetItemWithError(PyModule_GetDict(from), row.key));
    }
    const auto dict = py::reinterpret_steal<py::object>(PyObject_GenericGetDict(from, nullptr));
    if (!dict) {
      return own(nullptr);
    }
    return or_missing(PyDict_GetItemWithError(dict.ptr(), row.key));  // the object holds its dict
  }

  PyObject* cell(const Row& row, PyObject* from) {
    PyObject* closure = PyFunction_Check(from) ? PyFunction_GET_CLOSURE(from) : nullptr;
    if (closure == nullptr || static_cast<Py_ssize_t>(row.index) >= PyTuple_GET_SIZE(closure)) {
      return frontend.missing;
    }
    return or_missing(PyCell_GET(PyTuple_GET_ITEM(closure, static_cast<Py_ssize_t>(row.index))));
  }

  bool holds(const Row& row, PyObject* object) {
    if (object == frontend.missing || row.expected == frontend.missing) {
      return object == row.expected;
    }
    switch (row.check) {
      case Check::kFree:
        return true;
      case Check::kIs:
        return object == row.expected;
      case Check::kEqual:
        return same_plain(object, row.expected);
      case Check::kCopy:
        return same_copy(object, row.expected);
      case Check::kKeys:
        return same_keys(row, object);
      case Check::kLength:
        return same_length(row, object);
      case Check::kType:
        return reinterpret_cast<PyObject*>(Py_TYPE(object)) == row.expected;
      case Check::kArray:
        return is_true(
            PyObject_CallFunctionObjArgs(frontend.same_array, object, row.expected, nullptr));
      case Check::kSame:
        return object == objects_[row.other];
      case Check::kShows:
        return is_tensor(object) && is_tensor(objects_[row.other]) &&
               value_of(object) == value_of(objects_[row.other]);
    }
    return false;
  }

  bool same_keys(const Row& row, PyObject* object) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(object)) != row.type || !PyDict_Check(object) ||
        static_cast<size_t>(PyDict_GET_SIZE(object)) != row.count) {
      return false;
    }
    Py_ssize_t position = 0;
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    for (size_t i = 0; i < row.count; ++i) {
      if (PyDict_Next(object, &position, &key, &value) == 0 || !same_key(key, row.keys[i])) {
        return false;
      }
      if (row.elements[i] != kNone) {
        objects_[row.elements[i]] = value;
      }
    }
    return true;
  }

  bool same_length(const Row& row, PyObject* object) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(object)) != row.type) {
      return false;
    }
    const bool tuple = PyTuple_Check(object);
    if (!tuple && !PyList_Check(object)) {
      return PyObject_Size(object) == static_cast<Py_ssize_t>(row.count);
    }
    if (static_cast<size_t>(tuple ? PyTuple_GET_SIZE(object) : PyList_GET_SIZE(object)) !=
        row.count) {
      return false;
    }
    for (size_t i = 0; i < row.count; ++i) {
      if (row.elements[i] != kNone) {
        const auto place = static_cast<Py_ssize_t>(i);
        objects_[row.elements[i]] =
            tuple ? PyTuple_GET_ITEM(object, place) : PyList_GET_ITEM(object, place);
      }
    }
    return true;
  }

  const std::vector<Row>& rows_;
  std::vector<PyObject*>& objects_;
  Frame& frame_;
  bool careful_;
};

// How often a Module was changed so far.
long structure_version() {
  const auto number =
      py::reinterpret_steal<py::object>(PyObject_GetAttr(frontend.structure, names().version));
  if (!number) {
    fail();
  }
  return PyLong_AsLong(number.ptr());
}

// Walks the table; what hangs on Modules only if one was changed since it was last seen to hold.
bool table_holds(Entry& entry, Frame& frame) {
  const bool has_standing = entry.hot.size() != entry.rows.size();
  const long version = has_standing ? structure_version() : 0;
  frame.objects = entry.standing;
  Walker walker(entry, frame);
  if (version == entry.version) {
    return std::all_of(entry.hot.begin(), entry.hot.end(),
                       [&](size_t number) { return walker.visit(number); });
  }
  for (size_t number = 0; number < entry.rows.size(); ++number) {
    if (!walker.visit(number)) {
      return false;
    }
  }
  for (size_t number = 0; number < entry.rows.size(); ++number) {
    if (entry.rows[number].stays) {
      Py_INCREF(frame.objects[number]);
      Py_XDECREF(std::exchange(entry.standing[number], frame.objects[number]));
    }
  }
  entry.version = version;
  return true;
}

bool types_hold(const Entry& entry, const Frame& frame) {
  return std::all_of(entry.bindings.begin(), entry.bindings.end(), [&](const Binding& binding) {
    if (!binding.checked) {
      return true;
    }
    PyObject* value = value_of(frame.objects[binding.row]);
    return slot(value, frontend.value_type) == binding.type &&
           slot(value, frontend.value_requires_grad) == binding.requires_grad;
  });
}

// Whether no tensor that the call writes was met at two rows.
bool all_distinct(const Entry& entry, Frame& frame) {
  if (entry.distinct.size() < 2) {
    return true;
  }
  const size_t size = std::bit_ceil(entry.distinct.size() * 2);
  frame.seen.assign(size, nullptr);
  for (const bool written : {true, false}) {
    for (const auto& [row, writes] : entry.distinct) {
      if (writes != written) {
        continue;
      }
      PyObject* handle = frame.objects[row];
      size_t at = (reinterpret_cast<uintptr_t>(handle) >> 4) & (size - 1);
      while (frame.seen[at] != nullptr) {
        if (frame.seen[at] == handle) {
          return false;
        }
        at = (at + 1) & (size - 1);
      }
      if (written) {
        frame.seen[at] = handle;
      }
    }
  }
  return true;
}

}  // namespace

bool same_plain(PyObject* object, PyObject* expected) {
  if (object == expected) {
    return true;
  }
  if (Py_TYPE(object) != Py_TYPE(expected) || PyBool_Check(expected)) {
    return false;
  }
  if (PyFloat_CheckExact(object)) {
    return same_float(PyFloat_AS_DOUBLE(object), PyFloat_AS_DOUBLE(expected));
  }
  if (PyUnicode_CheckExact(object)) {
    return PyUnicode_Compare(object, expected) == 0;
  }
  if (PyLong_CheckExact(object) || PyBytes_CheckExact(object)) {
    return PyObject_RichCompareBool(object, expected, Py_EQ) == 1;
  }
  return is_true(PyObject_CallFunctionObjArgs(frontend.same, object, expected, nullptr));
}

bool fits(Entry& entry, const Arguments& arguments, std::span<PyObject* const> context,
          Frame& frame) {
  frame.leaves.clear();
  frame.owned.clear();
  for (size_t i = 0; i < context.size(); ++i) {
    if (!same_plain(context[i], entry.context[i])) {
      return false;
    }
  }
  return Matcher(entry, frame).match(arguments, entry) && leaves_fit(entry, frame) &&
         sizes_admitted(entry, frame) && table_holds(entry, frame) && types_hold(entry, frame) &&
         all_distinct(entry, frame);
}

}  // namespace deepseek::python

// Holds what a trace read from outside against an entry: walks the guard table.
#include <algorithm>
#include <bit>

#include "dispatch.h"

namespace deepseek::python {
namespace {

class Walker {
 public:
  Walker(const Entry& entry, Frame& frame)
      : rows_(entry.rows), objects_(frame.objects), held_(frame.held), leaves_(frame.leaves) {}

  // Puts the row's object in place; false if its check does not hold.
  bool visit(size_t number) {
    const Row& row = rows_[number];
    if (row.filled) {
      return objects_[number] != nullptr && holds(row, objects_[number]);
    }
    objects_[number] = reach(row);
    return holds(row, objects_[number]);
  }

 private:
  // What the table leads to must outlive the call: any code that runs meanwhile may drop it.
  PyObject* hold(PyObject* borrowed) {
    held_.add(borrowed);
    return borrowed;
  }

  PyObject* hold_or_missing(PyObject* borrowed) {
    if (borrowed == nullptr && PyErr_Occurred() != nullptr) {
      fail();
    }
    return hold(borrowed == nullptr ? frontend.missing : borrowed);
  }

  // The same for a new reference. That there is no such thing is an answer too.
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
    held_.take(object);
    return object;
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
        return leaves_[row.index];
      case Way::kItem:
        return item(row, from);
      case Way::kAttr:
        return attribute(row, from);
      case Way::kOwn:
        return own_attribute(row, from);
      case Way::kKind:
        return hold(reinterpret_cast<PyObject*>(Py_TYPE(from)));
      case Way::kLookup:
        return PyType_Check(from)
                   ? hold_or_missing(_PyType_Lookup(reinterpret_cast<PyTypeObject*>(from), row.key))
                   : frontend.missing;
      case Way::kCell:
        return cell(row, from);
      case Way::kSelf:
        return hold(from);
    }
    return frontend.missing;
  }

  PyObject* item(const Row& row, PyObject* from) {
    if (PyDict_Check(from)) {
      return hold_or_missing(PyDict_GetItemWithError(from, row.key));
    }
    if (PyTuple_Check(from)) {
      return row.index < static_cast<size_t>(PyTuple_GET_SIZE(from))
                 ? hold(PyTuple_GET_ITEM(from, static_cast<Py_ssize_t>(row.index)))
                 : frontend.missing;
    }
    if (PyList_Check(from)) {
      return row.index < static_cast<size_t>(PyList_GET_SIZE(from))
                 ? hold(PyList_GET_ITEM(from, static_cast<Py_ssize_t>(row.index)))
                 : frontend.missing;
    }
    return own(PyObject_GetItem(from, row.key));
  }

  PyObject* attribute(const Row& row, PyObject* from) {
    if (row.attr == Attr::kGrad && is_tensor(from)) {
      return hold_or_missing(slot(from, frontend.tensor_grad));
    }
    if (PyFunction_Check(from)) {
      const auto or_none = [](PyObject* object) { return object == nullptr ? Py_None : object; };
      switch (row.attr) {
        case Attr::kCode:
          return hold(PyFunction_GET_CODE(from));
        case Attr::kGlobals:
          return hold(PyFunction_GET_GLOBALS(from));
        case Attr::kDefaults:
          return hold(or_none(PyFunction_GET_DEFAULTS(from)));
        case Attr::kKwDefaults:
          return hold(or_none(PyFunction_GET_KW_DEFAULTS(from)));
        default:
          break;
      }
    }
    if (PyMethod_Check(from) && row.attr == Attr::kFunc) {
      return hold(PyMethod_GET_FUNCTION(from));
    }
    if (PyMethod_Check(from) && row.attr == Attr::kSelf) {
      return hold(PyMethod_GET_SELF(from));
    }
    // As object.__getattribute__ finds it: slots and what C code defines, without running code.
    return own(PyObject_GenericGetAttr(from, row.key));
  }

  PyObject* own_attribute(const Row& row, PyObject* from) {
    if (PyModule_Check(from)) {
      return hold_or_missing(PyDict_GetItemWithError(PyModule_GetDict(from), row.key));
    }
    const auto dict = py::reinterpret_steal<py::object>(PyObject_GenericGetDict(from, nullptr));
    if (!dict) {
      return own(nullptr);
    }
    return hold_or_missing(PyDict_GetItemWithError(dict.ptr(), row.key));
  }

  PyObject* cell(const Row& row, PyObject* from) {
    PyObject* closure = PyFunction_Check(from) ? PyFunction_GET_CLOSURE(from) : nullptr;
    if (closure == nullptr || row.index >= static_cast<size_t>(PyTuple_GET_SIZE(closure))) {
      return frontend.missing;
    }
    const auto place = static_cast<Py_ssize_t>(row.index);
    return hold_or_missing(PyCell_GET(PyTuple_GET_ITEM(closure, place)));
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
        return checked(
                   PyObject_CallFunctionObjArgs(frontend.same_array, object, row.expected, nullptr))
                   .ptr() == Py_True;
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
    size_t next = 0;
    return each_entry(object,
                      [&](PyObject* key, PyObject* value) {
                        if (next == row.count || !same_key(key, row.keys[next])) {
                          return false;
                        }
                        if (row.elements[next] != kNone) {
                          objects_[row.elements[next]] = hold(value);
                        }
                        ++next;
                        return true;
                      }) &&
           next == row.count;
  }

  bool same_length(const Row& row, PyObject* object) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(object)) != row.type) {
      return false;
    }
    const bool tuple = PyTuple_Check(object);
    if (!tuple && !PyList_Check(object)) {
      const Py_ssize_t size = PyObject_Size(object);
      if (size < 0) {
        fail();
      }
      return size == static_cast<Py_ssize_t>(row.count);
    }
    if (static_cast<size_t>(tuple ? PyTuple_GET_SIZE(object) : PyList_GET_SIZE(object)) !=
        row.count) {
      return false;
    }
    for (size_t i = 0; i < row.count; ++i) {
      if (row.elements[i] != kNone) {
        const auto place = static_cast<Py_ssize_t>(i);
        objects_[row.elements[i]] =
            hold(tuple ? PyTuple_GET_ITEM(object, place) : PyList_GET_ITEM(object, place));
      }
    }
    return true;
  }

  const std::vector<Row>& rows_;
  std::vector<PyObject*>& objects_;
  References& held_;
  const References& leaves_;
};

// How often a Module was changed so far.
long structure_version() {
  const py::object number = checked(PyObject_GetAttr(frontend.structure, names().version));
  return PyLong_AsLong(number.ptr());
}

std::shared_ptr<const Standing> standing_of(const Entry& entry, const Frame& frame, long version) {
  auto standing = std::make_shared<Standing>();
  standing->version = version;
  standing->objects.assign(entry.rows.size(), nullptr);
  for (size_t number = 0; number < entry.rows.size(); ++number) {
    if (entry.rows[number].stays) {
      standing->objects[number] = Py_NewRef(frame.objects[number]);
    }
  }
  return standing;
}

// Walks the table; what hangs on Modules only if one was changed since it was last seen to hold.
bool walk(Entry& entry, Frame& frame) {
  const bool has_standing = entry.hot.size() != entry.rows.size();
  const long version = has_standing ? structure_version() : 0;
  frame.held.clear();
  frame.standing = entry.standing;  // code that runs meanwhile may give the entry another one
  Walker walker(entry, frame);
  if (frame.standing && frame.standing->version == version) {
    frame.objects = frame.standing->objects;
    return std::all_of(entry.hot.begin(), entry.hot.end(),
                       [&](size_t number) { return walker.visit(number); });
  }
  frame.objects.assign(entry.rows.size(), nullptr);
  for (size_t number = 0; number < entry.rows.size(); ++number) {
    if (!walker.visit(number)) {
      return false;
    }
  }
  // The old one goes with the frame.
  entry.standing = standing_of(entry, frame, version);
  return true;
}

bool types_hold(const Entry& entry, const Frame& frame) {
  return std::all_of(entry.inputs.begin(), entry.inputs.end(), [&](const Source& input) {
    if (!input.checked) {
      return true;
    }
    PyObject* value = value_of(frame.objects[input.row]);
    return slot(value, frontend.value_type) == input.type &&
           slot(value, frontend.value_requires_grad) == input.requires_grad;
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

bool table_holds(Entry& entry, Frame& frame) {
  return walk(entry, frame) && types_hold(entry, frame) && all_distinct(entry, frame);
}

bool fits(Entry& entry, const Arguments& arguments, std::span<const py::object> context,
          Frame& frame) {
  if (context.size() != entry.context.size()) {
    return false;
  }
  for (size_t i = 0; i < context.size(); ++i) {
    if (!same_plain(context[i].ptr(), entry.context[i])) {
      return false;
    }
  }
  return arguments_fit(entry, arguments, frame) && table_holds(entry, frame);
}

}  // namespace deepseek::python

// Dispatch: one call of a jitted function, from its arguments to its results. All of it happens
// under the GIL but the run; code of the user's may run wherever Python objects are asked, made or
// dropped, so a call holds references to all that it looks at.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "entry.h"

namespace deepseek::python {

struct Arguments {
  PyObject* const* values;  // positional, then by keyword
  size_t positional;
  PyObject* keywords;  // a tuple of names, or null
};

// Objects that are kept alive. Dropping one may run anybody's code.
class References {
 public:
  References() = default;
  References(const References&) = delete;
  References& operator=(const References&) = delete;
  ~References() { clear(); }

  void add(PyObject* borrowed) {
    take(borrowed);
    Py_INCREF(borrowed);
  }
  void take(PyObject* owned) { objects_.push_back(owned); }
  void clear() {
    while (!objects_.empty()) {
      PyObject* last = objects_.back();
      objects_.pop_back();
      Py_DECREF(last);
    }
  }
  size_t size() const { return objects_.size(); }
  PyObject* operator[](size_t i) const { return objects_[i]; }

 private:
  std::vector<PyObject*> objects_;
};

// What one call gathers; frames are kept, so that their vectors need no memory of their own.
struct Frame {
  References leaves;
  References arrays;               // among the arguments, each followed by its tensor
  References held;                 // what the table led to
  std::vector<PyObject*> objects;  // of the rows; `held` or `standing` has them
  std::shared_ptr<const Standing> standing;
  std::vector<int64_t> sizes;
  std::shared_ptr<const Admitted> admitted;
  std::vector<PyObject*> seen;  // a hash set
  std::vector<std::shared_ptr<Buffer>> buffers;
  std::vector<char> donate;
  References handles;  // the tensors that the call changes: rebound ones, then those of gradients
  References dropped;  // what they showed before
  std::vector<std::pair<py::object, int64_t>> reserved;  // generators, and their draws before

  void clear();
};

// Whether the call fits the entry; fills the frame's leaves, objects and sizes.
bool fits(Entry& entry, const Arguments& arguments, std::span<const py::object> context,
          Frame& frame);
bool arguments_fit(Entry& entry, const Arguments& arguments, Frame& frame);
bool table_holds(Entry& entry, Frame& frame);

// Runs a call that fits. Null if the call has to be held against the entries once more, because a
// tensor had to be computed first, or another call was writing to one.
py::object execute(Entry& entry, Frame& frame);

// Binds the inputs; false as above.
bool bind_inputs(Entry& entry, Frame& frame);

// Decides exactly, by counting who holds what, which inputs the Program may write over. From here
// to the run nobody else may get at them.
void decide_donation(const Entry& entry, Frame& frame);

// Takes the next random draws for this call alone; gives them back where the call failed and nobody
// drew since.
void reserve_draws(const Entry& entry, Frame& frame);
void return_draws(const Entry& entry, Frame& frame);

// A value that a call computed or bound.
py::object make_value(PyObject* type, const std::shared_ptr<Buffer>& data, PyObject* requires_grad);

// Shows the outputs: in the handles that the call changes, and in what it returns.
class Results {
 public:
  Results(const Entry& entry, Frame& frame, const std::vector<std::shared_ptr<Buffer>>& outputs)
      : entry_(entry), frame_(frame), outputs_(outputs) {}

  void rebind();
  py::object build();
  py::list tensors() const { return py::cast(tensors_); }

 private:
  bool in_place(size_t output, PyObject* tensor) const;
  py::object value(size_t output, PyObject* requires_grad) const;
  py::object part();
  py::object sequence(const Item& item);
  py::object dict(const Item& item);

  const Entry& entry_;
  Frame& frame_;
  const std::vector<std::shared_ptr<Buffer>>& outputs_;
  std::vector<py::object> tensors_;
  size_t at_ = 0;
  size_t next_tensor_ = 0;
  size_t next_size_ = 0;
};

// ---- plain values ------------------------------------------------------------------------------

// Whether a plain value is what it was, numbers bit for bit.
bool same_plain(PyObject* object, PyObject* expected);

// A plain value, or a container against what guards.copied made of it.
bool same_copy(PyObject* object, PyObject* expected);

// Whether dict keys are the same: the plainest by value, others by identity. Runs no Python code.
bool same_key(PyObject* key, PyObject* expected);

// Calls visit(key, value) for each entry of a dict, in its order, until it says false. The visitor
// may run code that changes the dict.
template <typename Visit>
bool each_entry(PyObject* dict, Visit visit) {
  if (!PyODict_Check(dict)) {
    Py_ssize_t position = 0;
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    while (PyDict_Next(dict, &position, &key, &value) != 0) {
      const auto held_key = py::reinterpret_borrow<py::object>(key);
      const auto held_value = py::reinterpret_borrow<py::object>(value);
      if (!visit(key, value)) {
        return false;
      }
    }
    return true;
  }
  // An OrderedDict keeps an order of its own, and its iterator fails where the dict changes.
  const py::object keys = checked(PyODict_Type.tp_iter(dict));
  while (PyObject* next = PyIter_Next(keys.ptr())) {
    const auto key = py::reinterpret_steal<py::object>(next);
    const auto value = py::reinterpret_borrow<py::object>(PyDict_GetItemWithError(dict, key.ptr()));
    if (!value || !visit(key.ptr(), value.ptr())) {
      PyErr_Clear();
      return false;
    }
  }
  const bool whole = PyErr_Occurred() == nullptr;
  PyErr_Clear();
  return whole;
}

}  // namespace deepseek::python

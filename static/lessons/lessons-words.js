'use strict';
// The texts of the list of the lessons. The lab uses some of them too. The page loads this file after words.js.

addWords({
  'lessons-title': ['Lessons', '课程'],
  'lessons-intro': ['Each lesson is an event stream that explains itself.', '每节课都是一个自带讲解的事件流。'],
  'lessons-lab': ['The lab plays a lesson and shows what each byte does.', '实验室会播放课程，并显示每个字节的作用。'],
  'lab-title': ['The wire lab', '字节实验室'],
  'lab-chat': ['The chat page', '聊天页面'],
});
